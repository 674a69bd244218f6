"""Chat templates: honest ones make what plain Jinja makes, hostile ones are refused soon."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime
from pathlib import Path

import jinja2.ext
import jinja2.sandbox
import pytest

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer import budget, chat
from flaxmodels.tokenizer.chat import render

TEMPLATES = sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))
USER = {"role": "user", "content": "Is it \u00bd <b> warm?"}
ASSISTANT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Rome", "Oslo"], "description": "Where", "default": "Rome"},
        "days": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "unit": {"oneOf": [{"type": "string"}, {"type": "number", "default": 3}]},
    },
    "required": ["city"],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": PARAMETERS}}] * 3
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {"a": "b"}}}]}
CHATS = {
    "one": [USER],
    "system": [{"role": "system", "content": " Be brief. "}, USER, ASSISTANT, USER],
    "call": [USER, CALL, {"role": "tool", "content": '{"warm": true}'}, ASSISTANT, USER],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    "long": [{"role": ["user", "assistant"][turn % 2], "content": "w\u00f6rd <b> " * 1000} for turn in range(200)],
}
PREFIX = "the chat template does not accept these messages: "


@pytest.fixture(autouse=True)
def _no_hang():
    signal.alarm(20)
    yield
    signal.alarm(0)


def plain(template, names):
    """What Jinja's own sandbox makes, as transformers sets it up; or the error."""

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        return environment.from_string(template).render(names)
    except (jinja2.TemplateError, TypeError) as error:
        return str(error)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["alone", "tools"])
@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_honest_templates_make_what_plain_jinja_makes(path, messages, tools):
    names = {"messages": messages, "tools": tools, "add_generation_prompt": True, "bos_token": "<s>"}
    try:
        made = render(path.read_text(), names)
    except FlaxModelsError as error:
        found = re.fullmatch(rf"{PREFIX}(.*) \(line \d+ of the template\)", str(error))
        assert found
        made = found[1]
    assert made == plain(path.read_text(), names)


EXPRESSIONS = """\
1 + 2 * 3 - 4 / 5 // 6 % 7 ** 2
(1, 'a', 2.5, none, true) ~ [1, [2]] ~ {'a': {1: 2}}
'ab' * 2 + 'c', [1] * 2 + [2], 'a' < 'b', 1 < 2 < 3, [1] == [1], {'a': 1} == {'a': 1}, 'a' != 'b'
'a' in 'abc', 'a' not in ['b'], 'a' in {'a': 1}, [1] in [[1]], 1 is in [1], 'a' is lower, 2 is gt 1
'%s=%5.1f' % ('a', 2), '%(a)s' % {'a': 1}, '{}-{a:>4}'.format(1, a=2), '{a}'.format_map({'a': 1})
'abcdef'[1:4], [1, 2, 3][::-1], 'abc'[-1], (1, 2)[0], {'a': {'b': 1}}.a.b, {(1, 2): 3}[(1, 2)]
' ab '.strip().upper().center(9).replace('A', 'xy'), 'a,b'.split(','), ','.join(['a', 'b']), 'ab'.startswith('a')
'a-b'|replace('-', '+', 1), 'abc'|truncate(2, true, ''), 'a b'|title|center(10), 'a\\nb'|indent(2)
'a'|e, '<'|forceescape, [[1], [2]]|sum(start=[]), 'a.com'|urlize, 1000|filesizeformat, 'AB'|lower|capitalize
[3, 1, 2]|sort|join(','), [1, 2]|sum, [1, 2, 3]|batch(2, 0)|list, [1, 2, 3]|slice(2)|list, [1, 1]|unique|list
[1, 2]|map('string')|list, [{'a': 1}]|map(attribute='a')|sum, [1, 2]|select('odd')|list, [{'a': 1}]|groupby('a')|list
{'b': 1, 'a': 2}|dictsort, {'a': 1}|items|list, {'a': '\u00fc'}|tojson(indent=2), 3.14159|round(2), '12'|int + 1
'x'|default('y'), 'a%s'|format('b'), [1, 2]|max
[1, 2]|first, [1, 2]|last, [1, 2]|length, [1, 2]|reverse|list, 'ab'|reverse, [1, 2]|min
'a'|wordwrap(3), 'a b'|wordcount, '<b>c</b>'|striptags, {'a': 'b'}|xmlattr, 'a b'|urlencode
range(3)|list, dict(a=1), namespace(a=1).a, cycler(1, 2).next(), 'ab'|list, 'a'|pprint
""".splitlines()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_operations_make_what_plain_jinja_makes(expression):
    template = f"{{{{ [{expression}] }}}}"
    assert render(template, {}) == plain(template, {})


STATEMENTS = [
    "{% for a in [1, 2, 3] if a != 2 %}{{ loop.index }}/{{ loop.length }}{{ a }}{% else %}no{% endfor %}",
    "{% for a in [] %}{{ a }}{% else %}no{% endfor %}{% for a in 'ab' %}{{ loop.changed(a) }}{% endfor %}",
    "{% for a in range(9) %}{% if a > 3 %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in [[1, [2]], [3]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{% call m(3) %}x{% endcall %}",
    "{% set a %}b{{ 1 }}{% endset %}{{ a|upper }}{% filter upper %}x{% endfilter %}",
    "{% block a %}{{ 1 }}{% endblock %}{{ self.a() }}{% with a = 2 %}{{ a }}{% endwith %}",
    "{% set n = namespace(x=0) %}{% for i in 'ab' %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}",
    "{% autoescape true %}{{ '<' ~ 'a' }}{% endautoescape %}{{ x }}{{ x is defined }}{{ not x }}{{ 'a' if false }}",
]


@pytest.mark.parametrize("template", STATEMENTS)
def test_statements_do_what_they_do_in_plain_jinja(template):
    assert render(template, {}) == plain(template, {})


FEW_STEPS = 20_000
STEPS = f"it takes more than {FEW_STEPS + budget.STEPS_PER_VALUE:,} steps"
CHARS = f"it makes more than {budget.MAX_CHARS:,} characters of text"
TWICE = (
    "{% set n = namespace(x=(1,), y=(1,)) %}{% for i in range(99) %}"
    "{% set n.x = (n.x, n.x) %}{% set n.y = (n.y, n.y) %}{% endfor %}"
)
LOOPS = "{% for a in range(100000) %}{% for b in range(100000) %}"
BOMBS = {
    # loops and calls
    LOOPS + "{% endfor %}{% endfor %}": STEPS,
    LOOPS + "{{ a }}{% endfor %}{% endfor %}": STEPS,
    "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}": STEPS,
    "{% for a in range(100000) if range(100000)|list %}{% endfor %}": STEPS,
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}": STEPS,
    "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 18 + "{% endcall %}" * 18: STEPS,
    "{% block a %}{{ self.b() }}{{ self.b() }}{% endblock %}" + "".join(
        f"{{% block {a} %}}{{{{ self.{b}() }}}}{{{{ self.{b}() }}}}{{% endblock %}}"
        for a, b in zip("bcdefghijklmnopqrs", "cdefghijklmnopqrst", strict=True)
    ) + "{% block t %}{% endblock %}": STEPS,
    "{% for a in range(100000) %}{% for a in range(100000)|map('abs')|select|reject %}{% endfor %}{% endfor %}": STEPS,
    "{{ [1] * 10**10 }}": STEPS,
    "{% for a in range(100000) %}{% generation %}a{% endgeneration %}{% endfor %}": STEPS,
    "{{ ('a' * 10**6)|selectattr('b')|min }}": STEPS,
    "{{ ('a' * 10**6)|groupby('b')|list }}": STEPS,
    "{{ ('a' * 10**4)|sort(attribute='a.b.c.d.e') }}": STEPS,
    "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}": STEPS,
    "{% set x = [range(1000)|list] * 1000 %}{{ x|sum(start=[]) }}": STEPS,
    # texts
    "{{ 'a' * 10**10 }}{{ 1 }}": CHARS,
    "{{ 10**10 * 'a' }}": CHARS,
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}": CHARS,
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}": CHARS,
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x|replace('a', 'aa') %}{% endfor %}": CHARS,
    "{% for a in range(100000) %}" + "a" * 50_000 + "{% endfor %}": CHARS,
    "{% macro m() %}" + "a" * 50_000 + "{% endmacro %}{% for a in range(100000) %}{% set b = m() %}{% endfor %}": CHARS,
    "{% set a = 'a' * 10**7 %}{% for i in range(9) %}{% set b = a[1:] %}{% endfor %}": CHARS,
    "{% set a = 'a' * 10**7 %}{% for i in range(9) %}{% set b = 'b' in a %}{% endfor %}": CHARS,
    "{% set a = 'a' * 10**7 %}{% for i in range(9) %}{% set b = a == a + '' %}{% endfor %}": CHARS,
    "{% set a = 'a' * 10**6 %}{{ [a] * 99 ~ '' }}": CHARS,
    **dict.fromkeys(
        (
            "{{ '%1000000000d' % 1 }}",
            "{{ '%*d' % (10**9, 1) }}",
            "{{ '%1000000000d'|format(1) }}",
            "{{ '{:1000000000}'.format(1) }}",
            "{{ '{:{}}'.format(1, 10**9) }}",
            "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
            "{{ 'a'|center(10**9) }}",
            "{{ 'a'|center(1000000000) }}",
            "{% filter center(10**9) %}a{% endfilter %}",
            "{{ ['a']|map('center', 10**9)|list }}",
            "{{ 'a'|indent(10**9) }}",
            "{{ 'a'|truncate(10**9) }}",
            "{{ 'a'|wordwrap(1, wrapstring='a' * 10**7) }}",
            "{{ ['a'] * 99|batch(10**9, 1)|list }}",
            "{{ [1]|slice(10**9)|list }}",
            "{{ 5|round(10**9) }}",
            "{{ {'a': 1}|tojson(indent=10**9) }}",
            "{{ ['a', 'b', 'c']|join('a' * 10**7) }}",
            "{{ ('a' * 10**6)|replace('a', 'a' * 99) }}",
            "{{ ('a' * 10**6).replace('', 'a' * 99) }}",
            "{{ 'a'.ljust(10**9) }}",
            "{{ 'a'.zfill(10**9) }}",
            "{{ '\t'.expandtabs(10**9) }}",
            "{{ ('a' * 10**6).join(['a'] * 99) }}",
            "{{ 'ab'.translate({97: 'a' * 10**7}) }}",
            "{{ (1).to_bytes(10**9, 'big') }}",
            "{{ ('a' * 10**6).encode('punycode') }}",
            "{{ ('a' * 10**7).rfind('b' + 'a' * 10**6) }}",
            "{{ ('<!---->' * 10**5)|striptags }}",
            "{{ ('<!---->' * 10**5)|safe|attr('striptags')() }}",
            "{{ (')' * 10**6)|urlize }}",
            "{{ ('a' * 10**6)|pprint }}",
            "{{ strftime_now('%c' * 10**6) }}",
        ),
        CHARS,
    ),
    # numbers
    **dict.fromkeys(
        (
            "{{ 10**(10**9) }}",
            "{{ 2**9999 * 2 }}",
            "{{ ('f' * 10**5)|int(0, 16) // 3 }}",
            "{{ (1).from_bytes(('f' * 2000).encode(), 'big') }}",
        ),
        f"it computes with integers of more than {budget.MAX_BITS:,} bits",
    ),
    # lists that hold one list twice, which holds one twice, ...
    **{
        TWICE + after: STEPS
        for after in (
            "{{ n.x }}",
            "{{ 'a' ~ n.x }}",
            "{{ n.x|tojson }}",
            "{{ n.x|string }}",
            "{{ n.x == n.y }}",
            "{{ n.x is eq n.y }}",
            "{{ 1 < n.x < 2 }}",
            "{{ [n.x]|sort }}",
            "{{ [n.x]|unique|list }}",
            "{{ n.x in [n.y] }}",
            "{{ n.x in {} }}",
            "{{ {n.x: 1} }}",
            "{{ {}[n.x] }}",
            "{{ {}.get(n.x) }}",
            "{{ n.x is lower }}",
            "{{ 1|attr(n.x) }}",
            "{{ '%s' % (n.x,) }}",
            "{{ '{}'.format(n.x) }}",
            "{{ raise_exception(n.x) }}",
            "{% set n.a = n %}{{ n }}",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("template", "reason"), BOMBS.items(), ids=map(str, range(len(BOMBS))))
def test_bombs_are_refused(template, reason, monkeypatch):
    monkeypatch.setattr(budget, "MAX_STEPS", FEW_STEPS)
    with pytest.raises(FlaxModelsError) as raised:
        render(template, {})
    assert str(raised.value) == f"{PREFIX}{reason} (line 1 of the template)"


def test_limits_allow_about_a_second():
    with pytest.raises(
        FlaxModelsError, match=rf"^{PREFIX}it takes more than 2,005,000 steps \(line 1 of the template\)$"
    ):
        render(LOOPS + "{% endfor %}{% endfor %}", {})


FAULTS = {
    "a\n{{ 1 / 0 }}": "division by zero (line 2 of the template)",
    "{{ 1.0 * 10**400 }}": "int too large to convert to float (line 1 of the template)",
    "{{ a.b }}": "'a' is undefined (line 1 of the template)",
    "{{ messages[5].role }}": "list object has no element 5 (line 1 of the template)",
    "{{ '%(a)s' % {} }}": "'a' (line 1 of the template)",
    "{{ '{a}'.format() }}": "'a' (line 1 of the template)",
    "{{ 'a'.index('b') }}": "substring not found (line 1 of the template)",
    "{{ 'a' + 1 }}": 'can only concatenate str (not "int") to str (line 1 of the template)',
    "{{ messages|tojson(cls=dict) }}": "_tojson() got an unexpected keyword argument 'cls' (line 1 of the template)",
    "{{ range(10**9) }}": "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000)."
    " (line 1 of the template)",
    "{{ lipsum() }}": "'lipsum' is undefined (line 1 of the template)",
    "{% include 'a' %}": "no loader for this environment specified (line 1 of the template)",
    "{% for a in b %}": "Unexpected end of template. Jinja was looking for the following tags: 'endfor' or 'else'. "
    "The innermost block that needs to be closed is 'for'. (line 1 of the template)",
    "\n{{ a|b }}": "No filter named 'b'. (line 2 of the template)",
    "{{ " + "(" * 2000 + " }}": "maximum recursion depth exceeded",
    "{% if a %}" * 150 + "{% endif %}" * 150: "too many levels of indentation (<template>, line 209)",
    "a" * 100_001: "it has 100,001 characters, more than 100,000",
}  # fmt: skip


@pytest.mark.parametrize(("template", "reason"), FAULTS.items(), ids=map(str, range(len(FAULTS))))
def test_faults_are_named_with_their_line(template, reason):
    with pytest.raises(FlaxModelsError) as raised:
        render(template, {"messages": []})
    # How deep a recursion was when Python stopped it decides what Python says of it.
    assert str(raised.value).replace(" in comparison", "") == PREFIX + reason


@pytest.mark.parametrize(
    "template", ["{% macro m() %}\n{{ m() }}{% endmacro %}{{ m() }}", "\n{% block a %}{{ self.a() }}{% endblock %}"]
)
def test_recursion_ends(template):
    message = rf"^{PREFIX}maximum recursion depth exceeded.* \(line 2 of the template\)$"
    with pytest.raises(FlaxModelsError, match=message):
        render(template, {})


class Secret:
    token = "s3cret"

    def __init__(self):
        self._token = self.token


@pytest.mark.parametrize(
    "expression",
    [
        "messages.__class__",
        "messages|attr('__class__')",
        "messages['__class__']",
        "'{0.__class__}'.format(messages)",
        "'{a.__class__}'.format_map({'a': messages})",
        "''.join.__self__",
        "cycler.__init__.__globals__",
        "raise_exception.__globals__",
        "strftime_now.__globals__['BUDGET']",
        "range.__base__",
        "self.__init__",
        "self._TemplateReference__context",
        "messages|map(attribute='__class__')|first",
        "messages|map('attr', '__class__')|first",
        "([secret]|map(attribute='_token'))|first",
        "secret._token",
        "environment",
        "context",
        "turn",
    ],
)
def test_templates_see_the_data_and_nothing_else(expression):
    names = {"messages": [USER], "secret": Secret()}
    try:
        made = render(f"{{{{ {expression} }}}}", names)
    except FlaxModelsError as error:
        made = re.sub(r".*(is unsafe|is undefined|has no attribute).*", "", str(error))
    assert made == ""


@pytest.mark.parametrize("call", ["append(1)", "clear()", "pop()", "sort()", "extend([1])"])
def test_templates_change_no_data(call):
    messages = [USER]
    with pytest.raises(FlaxModelsError, match="is unsafe"):
        render(f"{{{{ messages.{call} }}}}", {"messages": messages})
    assert messages == [USER]


def test_limits_grow_with_the_messages():
    template = "{% for a in messages %}{% for b in a.content %}{{ b }}{% endfor %}{% endfor %}"
    messages = [{"content": "a" * 1000} for _ in range(200)]
    assert render(template, {"messages": messages}) == "a" * 200_000
    doubled = "{% for a in messages %}{{ a.content * 40 }}{% endfor %}"
    assert len(render(doubled, {"messages": [{"content": "a" * 300_000}]})) == 12_000_000


def test_messages_that_contain_themselves_are_refused(monkeypatch):
    monkeypatch.setattr(budget, "MAX_VALUES", 1_000)
    messages = []
    messages.append(messages)
    with pytest.raises(FlaxModelsError, match=f"^{PREFIX}they have more than 1,000 values$"):
        render("", {"messages": messages})


def test_time_is_the_last_limit(monkeypatch):
    monkeypatch.setattr(budget, "MAX_SECONDS", 0)
    with pytest.raises(FlaxModelsError, match=rf"^{PREFIX}it takes more than 0 s \(line 1 of the template\)$"):
        render("{% for a in range(1000) %}{% endfor %}", {})


def test_a_template_is_compiled_once():
    chat._compiled.cache_clear()
    for _ in range(3):
        assert render("{{ 1 }}", {}) == "1"
    assert chat._compiled.cache_info().misses == 1
