//! The hub's environment variables, read as Python's `huggingface_hub` reads them.

use std::path::PathBuf;
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";
/// Silence after which a connection counts as lost: Python's default.
const STALL: Duration = Duration::from_secs(10);

/// Where the hub and its cache are, and who asks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Environment {
    /// Address of the hub, without a slash at the end: `HF_ENDPOINT`.
    pub(crate) endpoint: String,
    /// `HF_TOKEN`, or what `hf auth login` wrote to `HF_TOKEN_PATH` or `$HF_HOME/token`.
    pub(crate) token: Option<String>,
    /// Folder of the cache: `HF_HUB_CACHE`, `$HF_HOME/hub`, or `~/.cache/huggingface/hub`.
    pub(crate) cache: PathBuf,
    /// `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`.
    pub(crate) offline: bool,
    /// Silence after which a connection counts as lost: `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds.
    pub(crate) stall: Duration,
}

impl Environment {
    /// The environment of this process.
    pub(super) fn read() -> Self {
        Self::from(|name| std::env::var(name).ok(), std::env::home_dir().unwrap_or_default())
    }

    fn from(variable: impl Fn(&str) -> Option<String>, user: PathBuf) -> Self {
        let text = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| {
            text(name).map(|value| match value.strip_prefix("~/") {
                Some(rest) => user.join(rest),
                None => PathBuf::from(value),
            })
        };
        let home = path("HF_HOME")
            .unwrap_or_else(|| path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        // a token file counts unless its use is switched off; a token in a variable is always meant
        let stored = || match text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
            true => None,
            false => std::fs::read_to_string(token_file).ok(),
        };
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(stored);
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.trim().parse().ok());
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or(ENDPOINT.to_owned()).trim().trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache,
            offline: text("HF_HUB_OFFLINE")
                .or_else(|| text("TRANSFORMERS_OFFLINE"))
                .is_some_and(|value| is_true(&value)),
            stall: seconds.filter(|seconds| *seconds > 0).map_or(STALL, Duration::from_secs),
        }
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Environment::from(find, PathBuf::from("/home/ada"))
    }

    #[test]
    fn without_variables_the_hub_and_the_cache_are_pythons() {
        let plain = environment(&[]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, PathBuf::from("/home/ada/.cache/huggingface/hub"));
        assert!(!plain.offline && plain.token.is_none());
    }

    #[test]
    fn the_more_exact_variable_wins() {
        let cache = |variables: &[(&str, &str)]| environment(variables).cache;
        assert_eq!(cache(&[("HF_HOME", "/hf")]), PathBuf::from("/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/cache")]), PathBuf::from("/cache"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/xdg")]), PathBuf::from("/xdg/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/hf")]), PathBuf::from("/home/ada/hf/hub"));
    }

    #[test]
    fn a_slash_behind_the_endpoint_and_a_line_break_behind_the_token_are_dropped() {
        let read = environment(&[("HF_ENDPOINT", "http://127.0.0.1:8080/"), ("HF_TOKEN", "hf_secret\n")]);
        assert_eq!((read.endpoint.as_str(), read.token.as_deref()), ("http://127.0.0.1:8080", Some("hf_secret")));
    }

    #[test]
    fn offline_is_what_python_calls_true() {
        for (value, offline) in [("1", true), ("true", true), ("On", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(environment(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert!(environment(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
    }
}
