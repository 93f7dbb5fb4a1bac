{#
    Mask an e-mail address: keep its first character and its domain, as in 'b***@gmail.com'. Text that is not an address
    becomes '***', so that nothing slips through. NULL stays NULL.
#}
{% macro mask_email(email) -%}
    case
        when {{ email }} is null then null
        when strpos({{ email }}, '@') > 1
            then concat(substr({{ email }}, 1, 1), '***@', regexp_extract({{ email }}, '[^@]*$'))
        else '***'
    end
{%- endmacro %}
