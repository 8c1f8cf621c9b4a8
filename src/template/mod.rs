//! The template environments: the one door to minijinja. `chat` holds the one for a model's chat template.
//!
//! The report's templates get finished strings and do no arithmetic. Every interpolated value is escaped for the kind
//! of file that the template makes (HTML or Markdown); a name that the context doesn't have is an error.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, Value};
use serde::Serialize;

use crate::error::{Context, Error, Result};

pub(crate) mod chat;

const TEMPLATES: [(&str, &str); 5] = [
    ("report.html", include_str!("../../templates/report.html")),
    ("report.css", include_str!("../../templates/report.css")),
    ("report.md", include_str!("../../templates/report.md")),
    ("method.txt", include_str!("../../templates/method.txt")),
    ("limits.txt", include_str!("../../templates/limits.txt")),
];
const MARKDOWN: &str = "markdown";
const PROSE: &str = "prose";

/// Renders the embedded template `name`.
///
/// # Errors
/// Where there is no such template, or the template uses a name that `context` doesn't have.
pub fn render(name: &str, context: impl Serialize) -> Result<String> {
    let env = environment()?;
    let template = env.get_template(name).map_err(|cause| explain(name, &cause))?;
    template.render(Serde(context)).map_err(|cause| explain(name, &cause))
}

/// Renders a template of prose as paragraphs: a blank line ends one, and its lines are joined. No value ends one.
///
/// # Errors
/// Where there is no such template, or the template uses a name that `context` doesn't have.
pub(crate) fn paragraphs(name: &str, context: impl Serialize) -> Result<Vec<String>> {
    let text = render(name, context)?;
    let blocks = text.split("\n\n").map(|block| block.trim_matches('\n').replace('\n', " "));
    Ok(blocks.filter(|block| !block.is_empty()).collect())
}

/// Escapes text for a cell or a paragraph of a Markdown file; what means nothing where it stands is left alone.
pub(crate) fn escape_markdown(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| chars[i]);
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\r' => out.push(' '),
            _ => {
                if is_markup(before, c, chars.get(i + 1).copied()) {
                    out.push('\\');
                }
                out.push(c);
            }
        }
    }
    out
}

/// Whether a character would be read as markup between its neighbours.
fn is_markup(before: Option<char>, c: char, after: Option<char>) -> bool {
    let inside_a_word = [before, after].iter().all(|c| c.is_some_and(char::is_alphanumeric));
    match c {
        '\\' | '|' | '`' | '*' | '~' | '$' => true,
        '_' => !inside_a_word,
        '#' | '-' | '+' | '=' => before.is_none() && after.is_none_or(|next| next.is_whitespace() || next == c),
        ']' => matches!(after, Some('(' | '[' | ':')),
        _ => false,
    }
}

fn environment() -> Result<Environment<'static>> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    env.set_syntax(syntax.context(|| "template syntax")?);
    env.set_auto_escape_callback(|name| match name.rsplit('.').next() {
        Some("html") => AutoEscape::Html,
        Some("md") => AutoEscape::Custom(MARKDOWN.into()),
        Some("txt") => AutoEscape::Custom(PROSE.into()),
        _ => AutoEscape::None,
    });
    env.set_formatter(write_value);
    for (name, source) in TEMPLATES {
        env.add_template(name, source).context(|| format!("template `{name}`"))?;
    }
    Ok(env)
}

/// Writes a value escaped for the kind of file, unless it is marked as safe.
fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    let escape: fn(&str) -> String = match state.auto_escape() {
        AutoEscape::Custom(kind) if *kind == MARKDOWN => escape_markdown,
        AutoEscape::Custom(_) => |text| text.replace(['\n', '\r'], " "),
        _ => return minijinja::escape_formatter(out, state, value),
    };
    let text = value.to_string();
    let text = if value.is_safe() { text } else { escape(&text) };
    out.write_str(&text).map_err(minijinja::Error::from)
}

fn explain(name: &str, cause: &minijinja::Error) -> Error {
    Error::new(format!("template `{name}`: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_template_name_is_an_error() {
        let error = render("nothing.html", ()).unwrap_err();
        assert!(error.message().contains("nothing.html"), "{error}");
    }

    #[test]
    fn an_unknown_name_in_the_context_is_an_error() {
        assert!(render("report.html", serde_json::json!({})).is_err());
        assert!(render("report.md", serde_json::json!({})).is_err());
        assert!(render("method.txt", serde_json::json!({})).is_err());
    }

    #[test]
    fn a_value_never_ends_a_paragraph_of_prose() {
        let counted = serde_json::json!({ "names": "a\n\nb", "several": false, "others": "" });
        let values = serde_json::json!({
            "counted": counted, "unlike_prompts": false, "grouped": "", "fallbacks": "", "dummies": "", "sensor": false,
            "by_model": false,
        });
        let limits = paragraphs("limits.txt", values).unwrap();
        assert_eq!(limits.len(), 2);
        assert!(limits[0].starts_with("Only a  b is counted; whatever else"), "{}", limits[0]);
    }

    #[test]
    fn markdown_cells_keep_their_column() {
        assert_eq!(escape_markdown("a|b\n<c> `d` *e*"), "a\\|b &lt;c&gt; \\`d\\` \\*e\\*");
        assert_eq!(escape_markdown("[a](javascript:b) _c_"), "[a\\](javascript:b) \\_c\\_");
        assert_eq!(escape_markdown("- a"), "\\- a");
        assert_eq!(escape_markdown("+8 # -3"), "+8 # -3");
        assert_eq!(escape_markdown("no_energy_source [69, 73]"), "no_energy_source [69, 73]");
    }
}
