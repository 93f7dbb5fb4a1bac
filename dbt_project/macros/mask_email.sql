{#
    An e-mail address without the person: the first character and the domain, as in 'b***@gmail.com'. What is no
    address becomes '***', so that nothing slips through; NULL stays NULL.
#}
{% macro mask_email(email) -%}
    case
        when {{ email }} is null then null
        when strpos({{ email }}, '@') > 1
            then concat(substr({{ email }}, 1, 1), '***@', regexp_extract({{ email }}, '[^@]*$'))
        else '***'
    end
{%- endmacro %}
