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

{# A username, masked if it is an e-mail address: some people use theirs as username. #}
{% macro mask_username(username) -%}
    case when strpos({{ username }}, '@') > 0 then {{ mask_email(username) }} else {{ username }} end
{%- endmacro %}
