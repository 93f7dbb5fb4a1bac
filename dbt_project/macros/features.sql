{#
    The features that look back, `streaming/velocity.py` as SQL: with t the time of an order, a window of length w holds
    the user's orders at earlier positions placed in (t - w, t], and the order itself. Times are in microseconds.
#}

{# The frame of a window of these minutes, which ends with the current row and its peers. Order by microseconds. #}
{% macro minutes_before(minutes) -%}
    range between {{ minutes * 60 * 1000000 - 1 }} preceding and current row
{%- endmacro %}

{#
    The days whose features are staged, as SQL literals: those of the window, and after them the days up to the last one
    on which published features are no longer right, because the window has orders that they do not know.

    `first`, and `end`, which is not included; `reads_from`: the day before, on which the windows of the first day begin.
#}
{% macro feature_days(staged) -%}
    {%- if not stages_window(staged) -%}
        {{ return({'first': "date '0001-01-01'", 'end': "date '9999-12-31'", 'reads_from': "date '0001-01-01'"}) }}
    {%- endif -%}
    {%- set days = window() -%}
    {%- set last = run_query(_last_day_with_other_features(staged, days)).columns[0].values()[0] -%}
    {%- set end = [days['end'], last + modules.datetime.timedelta(days=1)] | max if last else days['end'] -%}
    {{ return({
        'first': "date '" ~ days['first'] ~ "'",
        'end': "date '" ~ end ~ "'",
        'reads_from': "date '" ~ (days['first'] - modules.datetime.timedelta(days=1)) ~ "'",
    }) }}
{%- endmacro %}

{#
    An order changes the features of its user's orders at later positions: of those placed less than 24 hours later, and
    of the next one, however much later. New are the orders of the window that have no published features yet, and gone
    are those that have but are no orders any more.
#}
{% macro _last_day_with_other_features(staged, days) -%}
    {%- set orders, published = ref('fact_orders'), published_table(staged) -%}
    with
    changed as (
        select user_id, ordered_at, topic_position from {{ orders }}
        where {{ in_window('partition_date') }}
            and order_id not in (select order_id from {{ published }} where {{ in_window('partition_date') }})
        union all
        select user_id, ordered_at, topic_position from {{ published }}
        where {{ in_window('partition_date') }}
            and order_id not in (select order_id from {{ orders }} where {{ in_window('partition_date') }})
    )

    select max(later.partition_date) as last_day
    from {{ published }} as later
    inner join changed on later.user_id = changed.user_id and later.topic_position > changed.topic_position
    where later.partition_date >= date '{{ days["end"] }}'
        and (
            later.seconds_since_last_order is null
            or later.seconds_since_last_order >= {{ seconds_between('changed.ordered_at', 'later.ordered_at') }}
            or {{ seconds_between('changed.ordered_at', 'later.ordered_at') }} < 24 * 60 * 60
        )
{%- endmacro %}
