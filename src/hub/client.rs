//! Talks to the hub: what a revision holds, what a file is (its ETag, size and SHA-256), and its bytes from a given one
//! on.

use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::cache::{Kind, is_plain_name};
use super::environment::Environment;
use super::refusal::{Asked, Refusal};
use super::watch::{Event, Watch};
use crate::error::{Error, Result};

/// How long it may take until a connection is open.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest single wait, even if the hub asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Waits between attempts: a quarter of a second, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Attempts in a row that bring nothing, before a file is given up.
const ATTEMPTS: u32 = 6;
/// The same for a list of files, the first thing that is asked for: whoever has no network should learn it soon.
const LISTING_ATTEMPTS: u32 = 3;
/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// Bytes of the longest list of files that is read.
const LONGEST_LISTING: u64 = 256 << 20;
/// Bytes that are read of an answer that is an error.
const LONGEST_REFUSAL: u64 = 64 << 10;

/// A connection to the hub.
pub(super) struct Hub {
    environment: Environment,
    agent: Agent,
}

/// The contents of a revision.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub(crate) sha: String,
    #[serde(default, rename = "siblings")]
    pub(crate) files: Vec<Listed>,
}

/// A file of a revision.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    #[serde(rename = "rfilename")]
    pub(crate) path: String,
}

/// A file as the hub describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Remote {
    /// Its name in the cache.
    pub(crate) etag: String,
    /// The commit that the hub took it from.
    pub(crate) commit: String,
    /// Bytes.
    pub(crate) size: u64,
}

impl Remote {
    /// The digest that the contents must have: a large file's ETag is its SHA-256. A small file's ETag is git's own
    /// digest, so only its length is checked.
    pub(super) fn sha256(&self) -> Option<&str> {
        let digest = self.etag.len() == 64 && self.etag.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        digest.then_some(self.etag.as_str())
    }
}

/// Why an attempt failed.
pub(super) enum Failure {
    /// Asking again won't help.
    Final(Error),
    /// It may; the error counts if it doesn't.
    Passing { error: Error, wait: Option<Duration> },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Hub {
    pub(super) fn new(environment: Environment) -> Result<Self> {
        check_endpoint(&environment.endpoint)?;
        if environment.token.as_ref().is_some_and(|token| HeaderValue::from_str(token).is_err()) {
            return Err(Error::input("the token of the hub has characters that no token has")
                .with_hint("log in again with `hf auth login`, or set `HF_TOKEN` again"));
        }
        let config = Agent::config_builder()
            .user_agent(concat!("ept-sweep/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(environment.stall))
            // both are read here: a redirect may be the answer, and an error says why in its headers
            .max_redirects(0)
            .http_status_as_error(false);
        let agent = config.build().new_agent();
        Ok(Self { environment, agent })
    }

    pub(crate) fn asked<'a>(&'a self, kind: Kind, repository: &'a str, revision: Option<&'a str>) -> Asked<'a> {
        let Environment { endpoint, token, .. } = &self.environment;
        Asked { kind, repository, revision, endpoint, token: token.is_some() }
    }

    /// The commit and the files of a model's revision.
    pub(crate) fn listing(&self, asked: Asked<'_>, watch: &Watch) -> Result<Listing> {
        patiently(LISTING_ATTEMPTS, "the list of files", watch, || self.list(asked))
    }

    fn list(&self, asked: Asked<'_>) -> Result<Listing, Failure> {
        let revision = encoded(asked.revision.unwrap_or("main"));
        let address = format!("{}/api/models/{}/revision/{revision}", asked.endpoint, asked.repository);
        let mut answer = self.ask(asked, Method::GET, address, 0, |_| false)?;
        if !answer.status().is_success() {
            return Err(refused(asked, answer));
        }
        let text = answer.body_mut().with_config().limit(LONGEST_LISTING).read_to_vec();
        let text = text.map_err(|error| lost(asked, error))?;
        let listing: Listing = serde_json::from_slice(&text)
            .map_err(|error| no_hub(asked, format!("the hub's answer can't be read: {error}")))?;
        if !is_plain_name(&listing.sha) {
            return Err(no_hub(asked, "the hub names no commit").into());
        }
        Ok(listing)
    }

    /// What a file is, from the headers alone.
    pub(crate) fn file(&self, asked: Asked<'_>, revision: &str, path: &str, watch: &Watch) -> Result<Remote> {
        patiently(ATTEMPTS, &format!("`{path}`"), watch, || self.head(asked, revision, path))
    }

    fn head(&self, asked: Asked<'_>, revision: &str, path: &str) -> Result<Remote, Failure> {
        // a large file is a redirect to a file server, which knows neither the commit nor the SHA-256: the redirect does
        let is_described = |answer: &Response<Body>| remote(answer).is_some();
        let answer = self.ask(asked, Method::HEAD, resolve(asked, revision, path), 0, is_described)?;
        if let Some(remote) = remote(&answer) {
            return Ok(remote);
        }
        if !answer.status().is_success() {
            return Err(refused(asked, answer));
        }
        Err(no_hub(asked, format!("`{path}`: the answer lacks an ETag, a commit or a length")).into())
    }

    /// A file's bytes from `from` on. The second value is where they begin: 0 if the server knows no ranges.
    pub(crate) fn bytes(
        &self,
        asked: Asked<'_>,
        remote: &Remote,
        path: &str,
        from: u64,
    ) -> Result<(Response<Body>, u64), Failure> {
        let answer = self.ask(asked, Method::GET, resolve(asked, &remote.commit, path), from, |_| false)?;
        let (begin, length) = match answer.status() {
            StatusCode::OK => (0, text(answer.headers(), CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok())),
            StatusCode::PARTIAL_CONTENT => range(answer.headers()).map_or((u64::MAX, None), |(a, b)| (a, Some(b))),
            _ => return Err(refused(asked, answer)),
        };
        let wrong = |cause: String| {
            let error = asked.error(format!("`{path}`: {cause}"));
            Failure::from(
                error.with_hint("start again later; if it happens again, the hub's copy or a proxy is damaged"),
            )
        };
        if begin != from && begin != 0 {
            return Err(wrong("the server sends another part than the one that was asked for".to_owned()));
        }
        match length {
            Some(length) if length != remote.size => {
                Err(wrong(format!("the server sends a file of {length} bytes, but the hub says {}", remote.size)))
            }
            _ => Ok((answer, begin)),
        }
    }

    /// Asks for an address, and follows redirects up to an answer that is none or that `is_wanted`.
    fn ask(
        &self,
        asked: Asked<'_>,
        method: Method,
        mut address: String,
        from: u64,
        is_wanted: impl Fn(&Response<Body>) -> bool,
    ) -> Result<Response<Body>, Failure> {
        for _ in 0..REDIRECTS {
            let unusable = |cause: &dyn std::fmt::Display| asked.error(format!("`{address}` is no address: {cause}"));
            let uri: Uri = address.parse().map_err(|cause| unusable(&cause))?;
            // lengths, ranges and digests are of the file's own bytes, so no server may compress them
            let mut request = Request::builder().method(&method).uri(&uri).header(ACCEPT_ENCODING, "identity");
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            // a token goes to the hub's own address alone, and not to a file server
            if let Some(token) = self.environment.token.as_ref().filter(|_| is_at(&uri, asked.endpoint)) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|cause| unusable(&cause))?;
            let answer = self.agent.run(request).map_err(|error| lost(asked, error))?;
            if !answer.status().is_redirection() || is_wanted(&answer) {
                return Ok(answer);
            }
            // such as a renamed repository, which is at its new address
            let next = text(answer.headers(), LOCATION.as_str()).and_then(|location| redirected(&uri, location));
            address = next.ok_or_else(|| asked.error(format!("{address} redirects to nowhere")))?;
        }
        Err(asked.error("too many redirects").into())
    }
}

/// Repeats an attempt until it succeeds, fails for good, or has failed `attempts` times.
fn patiently<T>(
    attempts: u32,
    what: &str,
    watch: &Watch,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T> {
    let mut patience = Patience { attempts, failures: 0 };
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(failure) => patience.wait(failure, what, watch)?,
        }
    }
}

/// Counts attempts that brought nothing.
pub(super) struct Patience {
    attempts: u32,
    failures: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: ATTEMPTS, failures: 0 }
    }
}

impl Patience {
    /// Something came: the next failure counts as the first.
    pub(crate) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, or gives the failure back if there is none.
    pub(crate) fn wait(&mut self, failure: Failure, what: &str, watch: &Watch) -> Result<()> {
        let (error, asked_for) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { error, wait } => (error, wait),
        };
        self.failures += 1;
        let wait = asked_for.unwrap_or(FIRST_WAIT * 2_u32.pow(self.failures.min(ATTEMPTS) - 1));
        if self.failures >= self.attempts || wait > LONGEST_WAIT {
            return Err(error);
        }
        // a first stumble isn't worth a line, unless the wait is long
        if self.failures > 1 || asked_for.is_some() {
            watch.report(Event::Note(format!("{what}: {}; trying again", error.message())));
        }
        // in slices, so that Ctrl-C ends the wait
        let slice = Duration::from_millis(100);
        let mut left = wait;
        while !left.is_zero() {
            watch.check()?;
            std::thread::sleep(left.min(slice));
            left = left.saturating_sub(slice);
        }
        Ok(())
    }
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let wrong = |cause: String| {
        Error::input(format!("`HF_ENDPOINT` is no address of a hub: `{endpoint}`: {cause}"))
            .with_hint("set it to an address such as `https://huggingface.co`, or unset it")
    };
    if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
        return Err(wrong("it begins neither with `http://` nor with `https://`".to_owned()));
    }
    endpoint.parse::<Uri>().map(drop).map_err(|cause| wrong(cause.to_string()))
}

/// The address of a file.
fn resolve(asked: Asked<'_>, revision: &str, path: &str) -> String {
    let path = path.split('/').map(encoded).collect::<Vec<_>>().join("/");
    format!("{}/resolve/{}/{path}", asked.page(), encoded(revision))
}

/// Percent-encodes one segment of a path (RFC 3986): a branch's slash is part of its name.
fn encoded(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    segment
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Whether an address has the scheme, host and port of the hub.
fn is_at(uri: &Uri, endpoint: &str) -> bool {
    endpoint.parse::<Uri>().is_ok_and(|hub| hub.scheme() == uri.scheme() && hub.authority() == uri.authority())
}

/// The address that a redirect from `uri` leads to; `None` for anything that isn't HTTP.
fn redirected(uri: &Uri, location: &str) -> Option<String> {
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    match location {
        absolute if absolute.starts_with("http://") || absolute.starts_with("https://") => Some(absolute.to_owned()),
        _ if location.starts_with("//") => Some(format!("{scheme}:{location}")),
        _ if location.starts_with('/') => Some(format!("{scheme}://{authority}{location}")),
        _ => None,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|value| !value.is_empty())
}

/// A file as an answer's headers describe it; those of a link count before those of the answer that holds it, and alone
/// in a redirect, which has a body of its own.
fn remote<B>(answer: &Response<B>) -> Option<Remote> {
    let headers = answer.headers();
    let header = |linked: &str, own: &str| match text(headers, linked) {
        None if answer.status().is_success() => text(headers, own),
        linked => linked,
    };
    let etag = header("x-linked-etag", ETAG.as_str())?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    let size = header("x-linked-size", CONTENT_LENGTH.as_str())?;
    let commit = text(headers, "x-repo-commit")?.to_owned();
    let plain = is_plain_name(&etag) && is_plain_name(&commit);
    plain.then_some(Remote { etag, commit, size: size.parse().ok()? })
}

/// First byte and whole length of `bytes 100-199/200`.
fn range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let (range, whole) = text(headers, CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, whole.parse().ok()?))
}

/// An answer that no hub gives.
fn no_hub(asked: Asked<'_>, cause: impl std::fmt::Display) -> Error {
    asked.error(cause).with_hint(format!("check that `HF_ENDPOINT` (now {}) is a hub", asked.endpoint))
}

fn refused(asked: Asked<'_>, mut answer: Response<Body>) -> Failure {
    let message = text(answer.headers(), "x-error-message").map(str::to_owned);
    let message = message.or_else(|| {
        let body = answer.body_mut().with_config().limit(LONGEST_REFUSAL).read_to_vec().ok()?;
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        body.get("error")?.as_str().map(str::to_owned)
    });
    let headers = answer.headers();
    let refusal = Refusal {
        status: answer.status().as_u16(),
        code: text(headers, "x-error-code").map(str::to_owned),
        message,
        wait: text(headers, "retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs),
    };
    let error = refusal.error(asked);
    if refusal.passes() { Failure::Passing { error, wait: refusal.wait } } else { Failure::Final(error) }
}

/// A connection that failed, or ended too early.
pub(super) fn lost(asked: Asked<'_>, error: impl Into<ureq::Error>) -> Failure {
    let cause = match error.into() {
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::Io(cause) => cause.to_string(),
        other => other.to_string(),
    };
    Failure::Passing { error: asked.unreachable(cause), wait: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)]) -> Response<()> {
        let answer = Response::builder().status(status);
        headers.iter().fold(answer, |answer, (name, value)| answer.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn the_link_counts_before_the_answer_that_holds_it() {
        let digest = "a".repeat(64);
        let linked = [
            ("etag", "\"other\""),
            ("content-length", "12"),
            ("x-linked-etag", &format!("\"{digest}\"")),
            ("x-linked-size", "4096"),
            ("x-repo-commit", "c0ffee"),
        ];
        let found = remote(&answer(302, &linked)).unwrap();
        assert_eq!((found.sha256(), found.size), (Some(digest.as_str()), 4096));
        let small = [("etag", "W/\"abc\""), ("content-length", "12"), ("x-repo-commit", "c0ffee")];
        let described = Remote { etag: "abc".to_owned(), commit: "c0ffee".to_owned(), size: 12 };
        assert_eq!(remote(&answer(200, &small)), Some(described));
        assert_eq!(remote(&answer(307, &small)), None);
    }

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        let hostile = |etag: &str, commit: &str| {
            remote(&answer(200, &[("etag", etag), ("content-length", "1"), ("x-repo-commit", commit)]))
        };
        assert_eq!(hostile("../../etc/passwd", "c0ffee"), None);
        assert_eq!(hostile("abc", "../x"), None);
        assert!(hostile("abc", "c0ffee").is_some());
    }

    #[test]
    fn a_slash_is_part_of_a_branch_and_divides_a_path() {
        let asked = Asked {
            kind: Kind::Dataset,
            repository: "a/b",
            revision: None,
            endpoint: "http://hub/mirror",
            token: false,
        };
        let address = resolve(asked, "refs/pr/1", "x y/z.json");
        assert_eq!(address, "http://hub/mirror/datasets/a/b/resolve/refs%2Fpr%2F1/x%20y/z.json");
        assert!(address.parse::<Uri>().is_ok());
    }

    #[test]
    fn an_endpoint_is_an_address_of_http() {
        assert!(check_endpoint("http://hub/mirror").is_ok());
        for wrong in ["huggingface.co", "ftp://hub", "", "http://", "https://a b"] {
            assert!(check_endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_stays_with_the_hub_when_a_redirect_leads_elsewhere() {
        let hub: Uri = "https://hub:8443/a/b/resolve/main/x".parse().unwrap();
        let to = |location: &str| {
            redirected(&hub, location).map(|address| {
                let kept = is_at(&address.parse().unwrap(), "https://hub:8443/mirror");
                (address, kept)
            })
        };
        assert_eq!(to("/new/b?x=1"), Some(("https://hub:8443/new/b?x=1".to_owned(), true)));
        assert_eq!(to("//files/x"), Some(("https://files/x".to_owned(), false)));
        assert_eq!(to("http://hub:8443/x"), Some(("http://hub:8443/x".to_owned(), false)));
        assert_eq!(to("https://hub/x"), Some(("https://hub/x".to_owned(), false)));
        assert_eq!(to("file:///etc/passwd"), None);
    }
}
