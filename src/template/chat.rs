//! Chat templates: jinja2 as transformers sets it up for them, with a bound on the work and memory of each rendering.
//!
//! Follows `_compile_jinja_template` of transformers' `chat_template_utils.py`: `trim_blocks` and `lstrip_blocks`, loop
//! controls, Python's methods of strings, lists and dictionaries, a `tojson` that is `json.dumps`, `raise_exception`,
//! `strftime_now` and the `generation` block. The clock alone differs: a template sees the date that it is given.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior, Value};
use minijinja_contrib::pycompat;
use serde::Serialize;

use crate::calendar::Date;
use crate::error::{Context, Error, Result};

/// What one rendering may cost: about so many instructions, or 64 times so many bytes. A template of today takes a few
/// thousand, and a prompt of a megabyte some 20,000 for each time that it is copied.
const FUEL: u64 = 250_000;

/// Values nested as deeply as the fuel allows are dropped recursively: that takes a stack larger than a thread's own.
const STACK_BYTES: usize = 512 << 20;

/// Longest template source: those of today have up to 20 kB.
const LONGEST_SOURCE: usize = 1 << 20;

/// How deeply `tojson` goes into a value.
const DEEPEST_JSON: usize = 100;

const NAME: &str = "chat template";

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct Compiled {
    environment: Environment<'static>,
}

impl Compiled {
    /// Compiles a template that will see `date` as today.
    ///
    /// # Errors
    /// The template isn't valid; the message says where.
    pub(crate) fn new(source: &str, date: Date) -> Result<Self> {
        if source.len() > LONGEST_SOURCE {
            return Err(Error::input(format!("a template of {} bytes is too long", source.len())));
        }
        let mut environment = environment(date)?;
        // the parser descends into nested expressions
        on_large_stack(|| environment.add_template_owned(NAME, without_generation_tags(source)))?
            .map_err(|cause| explain(&cause))?;
        Ok(Self { environment })
    }

    /// Renders the template with the names of `context`, a map or a struct.
    ///
    /// # Errors
    /// The template calls `raise_exception`, uses a value that isn't there, or does too much work.
    pub(crate) fn render(&self, context: impl Serialize) -> Result<String> {
        let context = Value::from(Serde(context));
        let rendered = on_large_stack(|| self.environment.get_template(NAME)?.render(context));
        rendered?.map_err(|cause| explain(&cause))
    }
}

/// Runs `work` in a thread whose stack outlasts whatever a hostile template nests.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.context(|| "can't start a thread for the chat template")?;
        thread.join().map_err(|_| Error::input("the template can't be rendered: it breaks the template engine"))
    })
}

fn environment(date: Date) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.context(|| "template syntax")?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| {
        date.strftime(format).map_err(|cause| minijinja::Error::new(ErrorKind::InvalidOperation, cause))
    });
    Ok(environment)
}

/// `{% generation %}` marks the assistant's text for training and prints nothing of its own: a plain scope, which
/// `with` is, stands in for it. Signs that strip blanks stay where they are.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let signed = tag.strip_prefix(['-', '+']).unwrap_or(tag);
        let named = signed.trim_start();
        for (word, stand_in) in [("generation", "with"), ("endgeneration", "endwith")] {
            let Some(after) = named.strip_prefix(word) else { continue };
            let end = after.trim_start();
            if end.strip_prefix(['-', '+']).unwrap_or(end).starts_with("%}") {
                out.push_str(&tag[..tag.len() - named.len()]);
                out.push_str(stand_in);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// A template's own objection to the conversation.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn raise_exception(message: &Value) -> Result<Value, minijinja::Error> {
    let message = message.to_string();
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Refusal(message)))
}

/// The template's own words where it refused, else what is wrong and on which line.
fn explain(cause: &minijinja::Error) -> Error {
    let mut inner: Option<&(dyn std::error::Error + 'static)> = Some(cause);
    while let Some(error) = inner {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return Error::input(format!("the template refuses the conversation: {message}"));
        }
        inner = error.source();
    }
    if cause.kind() == ErrorKind::OutOfFuel {
        let hint = "is it a chat template? one in a file of your own can be named with `chat_template: ./file.jinja`";
        return Error::input("the template does more work than a chat template needs").with_hint(hint);
    }
    let line = cause.line().map_or(String::new(), |line| format!("line {line}: "));
    let detail = cause.detail().map_or(String::new(), |detail| format!(": {detail}"));
    Error::input(format!("{line}{}{detail}", cause.kind()))
}

/// Python's methods: those that minijinja-contrib has, and the few more that templates use.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    match (value.as_str(), name) {
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Whether Python's `iter` takes a value: not `none`, over which minijinja would iterate as over an empty list.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && (value.as_str().is_some() || value.try_iter().is_ok())
}

/// Whether jinja2 counts a value as a sequence: it has a length and items, as strings and dictionaries have too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)` of Python.
fn tojson(
    state: &State,
    value: &Value,
    ascii: Option<bool>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, minijinja::Error> {
    let given = |value: &Value| !value.is_none();
    let indent = indent.or(kwargs.get("indent")?).filter(given);
    let separators = kwargs.get::<Option<Value>>("separators")?.filter(given);
    let mut json = Json {
        state,
        out: String::new(),
        ascii: ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false),
        item: if indent.is_some() { ",".to_owned() } else { ", ".to_owned() },
        key: ": ".to_owned(),
        indent: indent.as_ref().map(unit).transpose()?,
        sort: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    if let Some(separators) = separators {
        let text = |index: usize| separators.get_item(&Value::from(index)).map(|separator| separator.to_string());
        (json.item, json.key) = (text(0)?, text(1)?);
    }
    json.value(value, 0)?;
    Ok(Value::from(json.out))
}

/// One level of indentation: a number of blanks, or a string.
fn unit(indent: &Value) -> Result<String, minijinja::Error> {
    match indent.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Ok(" ".repeat(usize::try_from(indent.clone())?.min(32))),
    }
}

/// Writes values as Python's `json.dumps` does.
struct Json<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    ascii: bool,
    item: String,
    key: String,
    indent: Option<String>,
    sort: bool,
}

impl Json<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), minijinja::Error> {
        let fail = |message: String| Err(minijinja::Error::new(ErrorKind::BadSerialization, message));
        if depth > DEEPEST_JSON {
            return fail(format!("more than {DEEPEST_JSON} levels of nesting"));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.nested(['[', ']'], &items, depth, |json, item| json.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.nested(['{', '}'], &keys, depth, |json, key| {
                    json.string(&key.to_string())?;
                    let separator = json.key.clone();
                    json.out.push_str(&separator);
                    json.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            other => return fail(format!("{other} is no JSON")),
        }
        Ok(())
    }

    fn nested(
        &mut self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        self.out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) -> Result<(), minijinja::Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        let quoted = serde_json::to_string(text)
            .map_err(|cause| minijinja::Error::new(ErrorKind::BadSerialization, cause.to_string()))?;
        match self.ascii {
            false => self.out.push_str(&quoted),
            true => quoted.chars().for_each(|c| push_ascii(&mut self.out, c)),
        }
        Ok(())
    }
}

fn push_ascii(out: &mut String, c: char) {
    if c.is_ascii() {
        out.push(c);
        return;
    }
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let context = serde_json::json!({"messages": [{"role": "user", "content": "Hi <b>"}], "tools": null});
        Compiled::new(source, Date::default())?.render(context)
    }

    #[test]
    fn generation_tags_print_nothing_and_keep_their_signs() {
        assert_eq!(render("a{% generation %}b{% endgeneration %}c").unwrap(), "abc");
        assert_eq!(render("a {%- generation -%} b {%- endgeneration -%} c").unwrap(), "abc");
        assert_eq!(without_generation_tags("{%+ generation %}{% generations %}"), "{%+ with %}{% generations %}");
    }

    #[test]
    fn the_clock_stands_still() {
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), "26 Jul 2024");
        assert!(render("{{ strftime_now('%Q') }}").unwrap_err().message().contains("`%Q`"));
    }

    #[test]
    fn a_refusal_is_told_in_the_templates_own_words() {
        let error = render("{% macro m() %}{{ raise_exception('no ' ~ 'tools') }}{% endmacro %}{{ m() }}").unwrap_err();
        assert_eq!(error.message(), "the template refuses the conversation: no tools");
        assert_eq!(error.kind(), crate::error::Kind::Input);
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = Compiled::new("a\n{% if %}", Date::default()).unwrap_err();
        assert!(error.message().starts_with("line 2: syntax error"), "{error}");
        let error = render("\n\n{{ nothing.there }}").unwrap_err();
        assert!(error.message().starts_with("line 3: undefined value"), "{error}");
    }

    #[test]
    fn json_is_pythons() {
        let cases = [
            ("{{ messages|tojson }}", r#"[{"role": "user", "content": "Hi <b>"}]"#),
            ("{{ {'b': 1.0, 'a': [], 'c': none}|tojson(sort_keys=true) }}", r#"{"a": [], "b": 1.0, "c": null}"#),
            ("{{ [1, true, 'é\"\\n']|tojson(separators=[',', ':']) }}", r#"[1,true,"é\"\n"]"#),
            ("{{ '😀'|tojson(ensure_ascii=true) }}", r#""\ud83d\ude00""#),
            ("{{ {'a': [1, {}]}|tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ]\n}"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
        assert!(render("{{ nothing|tojson }}").is_err());
    }

    #[test]
    fn endless_work_ends_in_an_error() {
        let hostile = [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
            "{{ 'ab' * 999999999999 }}",
            "{{ 'a'.replace('a', 'b' * 9999999) }}{{ range(99999)|list|tojson }}{{ range(99999)|list|tojson }}",
            "{% for x in [[1]] recursive %}{{ loop([[x]]) }}{% endfor %}",
            "{% include 'chat template' %}",
        ];
        for source in hostile {
            assert!(render(source).is_err(), "{source}");
        }
    }

    #[test]
    fn values_that_grow_into_each_other_end_in_an_error() {
        let lists = "[".repeat(200) + "ns.x" + &"]".repeat(200);
        let grow = |expression: &str| {
            format!(
                "{{% set ns = namespace(x=[]) %}}{{% for a in range(99999) %}}{{% set ns.x = {expression} %}}\
                 {{% endfor %}}"
            )
        };
        assert!(render(&grow("[ns.x]")).is_err());
        assert!(render(&grow("[[[[[[[[[[[[[[[[ns.x]]]]]]]]]]]]]]]]")).is_err());
        assert!(render(&grow(&lists)).is_err());
        let deep = grow("[[[[ns.x]]]]").replace("99999", "9999");
        assert!(render(&(deep + "{{ ns.x|tojson }}")).is_err());
    }

    /// A text or an error: an overflow of the stack would end the whole program.
    #[test]
    fn deeply_nested_values_and_expressions_never_overflow_the_stack() {
        let deep = "{% set ns = namespace(x=[]) %}{% for a in range(9999) %}{% set ns.x = [[[[ns.x]]]] %}{% endfor %}";
        let _ = render(&(deep.to_owned() + "{{ ns.x }}"));
        let _ = render(&("{{ ".to_owned() + &"(".repeat(100_000) + &")".repeat(100_000) + " }}"));
        let _ = render(&("{{ ".to_owned() + &"not ".repeat(100_000) + "1 }}"));
        let _ = render(&"{% if 1 %}".repeat(50_000));
    }
}
