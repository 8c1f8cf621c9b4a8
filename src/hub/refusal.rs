//! The hub's refusals to give a file, as errors that say what to do.
//!
//! The hub names its reasons in the header `X-Error-Code`. Without a login it answers 401 if a repository doesn't exist, so
//! as not to reveal which private ones do.

use std::time::Duration;

use super::cache::Kind as RepositoryKind;
use crate::error::{Error, Kind};

/// A request's subject and sender, for addresses and messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(crate) kind: RepositoryKind,
    pub(crate) repository: &'a str,
    /// The revision, as the user wrote it.
    pub(crate) revision: Option<&'a str>,
    /// The hub's address, without a slash at the end.
    pub(crate) endpoint: &'a str,
    /// Whether a token was sent.
    pub(crate) token: bool,
}

/// An answer that is no file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Refusal {
    pub(crate) status: u16,
    /// `X-Error-Code`.
    pub(crate) code: Option<String>,
    /// `X-Error-Message`, or `error` of a JSON body.
    pub(crate) message: Option<String>,
    /// `Retry-After`.
    pub(crate) wait: Option<Duration>,
}

impl Refusal {
    /// Whether asking again can help.
    pub(crate) fn passes(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502 | 503 | 504)
    }

    /// The refusal as an error.
    pub(crate) fn error(&self, asked: Asked<'_>) -> Error {
        let repository = asked.repository;
        match (self.status, self.code.as_deref()) {
            (_, Some("GatedRepo")) if asked.token => {
                asked.error("it is gated, and the account of this token isn't let in").with_hint(format!(
                    "accept its terms on {} with that account; some owners let people in by hand",
                    asked.page()
                ))
            }
            (_, Some("GatedRepo")) => asked.error("it is gated, and no token was sent").with_hint(format!(
                "accept its terms on {}, then log in with `hf auth login` or set `HF_TOKEN`",
                asked.page()
            )),
            (401, code) if asked.token && code != Some("RepoNotFound") => asked
                .error(format!("the hub doesn't take this token{}", self.said()))
                .with_hint("make a new one in the settings of your account, then `hf auth login` or set `HF_TOKEN`"),
            (_, Some("RepoNotFound")) | (401, _) => asked.error("no such repository, or a private one").with_hint(format!(
                "check the spelling of `{repository}`; for a private one {}; a local folder starts with `./`, `../`, \
                 `~/` or `/`",
                if asked.token {
                    "use a token that may read it"
                } else {
                    "log in with `hf auth login` or set `HF_TOKEN`"
                }
            )),
            (_, Some("RevisionNotFound")) => {
                let revision = asked.revision.unwrap_or("main");
                let hint = format!("see `Files and versions` on {} for its branches, tags and commits", asked.page());
                asked.error(format!("it has no revision `{revision}`")).with_hint(hint)
            }
            (403, _) => asked
                .error(format!("this account may not read it{}", self.said()))
                .with_hint("use a token with read access to it, from `hf auth login` or in `HF_TOKEN`"),
            (404 | 410, _) => asked.error(format!("the hub doesn't have it{}", self.said())).with_hint(format!(
                "check `source` and `revision`, and that `HF_ENDPOINT` (now {}) is a hub",
                asked.endpoint
            )),
            (429, _) => {
                let wait = self.wait.map_or("some minutes".to_owned(), |wait| format!("{} s", wait.as_secs()));
                let token = if asked.token { "" } else { "; with a login (`hf auth login`) the limit is higher" };
                asked
                    .error("the hub gets too many requests from here")
                    .with_kind(Kind::Runtime)
                    .with_hint(format!("wait {wait} and start again: what was fetched is kept{token}"))
            }
            (status, _) => asked
                .error(format!("the hub answers with status {status}{}", self.said()))
                .with_kind(Kind::Runtime)
                .with_hint("start again later: what was fetched is kept; `--offline` uses what the cache holds"),
        }
    }

    /// The hub's own words, after a colon.
    fn said(&self) -> String {
        let message = self.message.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        if message.is_empty() { message } else { format!(": {}", message.chars().take(200).collect::<String>()) }
    }
}

impl Asked<'_> {
    /// An error that begins with what was asked for; the user has to change something.
    pub(crate) fn error(&self, cause: impl std::fmt::Display) -> Error {
        let at = self.revision.map_or(String::new(), |revision| format!(" at `{revision}`"));
        Error::input(format!("can't get `{}`{at}: {cause}", self.repository))
    }

    /// The network failed.
    pub(crate) fn unreachable(&self, cause: impl std::fmt::Display) -> Error {
        self.error(format!("the connection to {} failed: {cause}", self.endpoint)).with_kind(Kind::Runtime).with_hint(
            "check the network and `HF_ENDPOINT`, and start again: what was fetched is kept; `--offline` uses what the \
             cache holds",
        )
    }

    /// The repository's page, and what the addresses of its files begin with.
    pub(crate) fn page(&self) -> String {
        format!("{}/{}{}", self.endpoint, self.kind.prefix(), self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, code: Option<&str>, token: bool) -> String {
        let asked = Asked {
            kind: RepositoryKind::Model,
            repository: "owner/name",
            revision: Some("v1"),
            endpoint: "https://hub",
            token,
        };
        Refusal { status, code: code.map(str::to_owned), ..Refusal::default() }.error(asked).to_string()
    }

    #[test]
    fn a_gated_model_is_distinguished_from_a_missing_one() {
        assert!(said(401, Some("GatedRepo"), false).contains("accept its terms on https://hub/owner/name"));
        assert!(said(403, Some("GatedRepo"), true).contains("isn't let in"));
        assert!(said(401, Some("RepoNotFound"), false).contains("no such repository, or a private one"));
        assert!(said(404, Some("RepoNotFound"), true).contains("use a token that may read it"));
        assert!(said(404, Some("RevisionNotFound"), false).contains("it has no revision `v1`"));
    }

    #[test]
    fn a_token_that_the_hub_rejects_is_distinguished_from_none() {
        assert!(said(401, None, true).contains("doesn't take this token"));
        assert!(said(401, None, false).contains("`hf auth login`"));
    }
}
