//! Talks to the hub: what a revision holds (through hf-hub), what a file is (its ETag, size and SHA-256), and its bytes
//! from a given one on.

use std::time::Duration;

use hf_hub::{HFClient, HFError};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::runtime::{Builder, Runtime};

use super::cache::{Kind, is_plain_name};
use super::environment::Environment;
use super::refusal::{Asked, Refusal};
use super::watch::{Event, Watch};
use crate::error::{Context, Error, Result};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest that one wait may be, also where the hub asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Waits between attempts: a quarter of a second, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Attempts in a row that bring nothing, before a download fails.
const ATTEMPTS: u32 = 6;
/// Redirects that are followed to find out what a file is.
const REDIRECTS: usize = 10;

/// A connection to the hub.
pub(super) struct Hub {
    environment: Environment,
    api: HFClient,
    /// Follows redirects; a token goes to the hub's own address alone.
    http: Client,
    /// Doesn't: the answer that sends to a file server is the one that says what the file is.
    direct: Client,
    runtime: Runtime,
}

/// What a revision is.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Remote {
    /// Its name in the cache.
    pub etag: String,
    /// The commit that the hub took it from.
    pub commit: String,
    /// Bytes.
    pub size: u64,
}

impl Remote {
    /// The digest that the contents must have: a large file's ETag is its SHA-256. A small file's is git's own, and its
    /// length is checked alone.
    pub fn sha256(&self) -> Option<&str> {
        let digest = self.etag.len() == 64 && self.etag.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        digest.then_some(self.etag.as_str())
    }
}

/// Why an attempt failed.
pub(super) enum Failure {
    /// Asking again won't help.
    Final(Error),
    /// It may; the error counts where it doesn't.
    Passing { error: Error, wait: Option<Duration> },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Hub {
    pub fn new(environment: Environment) -> Result<Self> {
        let what = || "can't prepare a connection to the hub";
        let token = environment.token.as_ref().map(|token| HeaderValue::from_str(&format!("Bearer {token}")));
        if matches!(token, Some(Err(_))) {
            return Err(Error::input("the token of the hub has characters that no token has")
                .hint("log in again with `hf auth login`, or set `HF_TOKEN` anew"));
        }
        address(&environment, Kind::Model, "", &[])?;
        let client = || {
            Client::builder()
                .user_agent(concat!("ept-sweep/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .read_timeout(environment.stall)
        };
        let http = client().build().context(what)?;
        let direct = client().redirect(reqwest::redirect::Policy::none()).build().context(what)?;
        let api = HFClient::builder()
            .endpoint(&environment.endpoint)
            .client(http.clone())
            .retry_max_attempts(3)
            .cache_enabled(false);
        let api = match &environment.token {
            Some(token) => api.token(token),
            None => api,
        };
        let api = api.build().context(what)?;
        let runtime = Builder::new_current_thread().enable_all().build().context(what)?;
        Ok(Self { environment, api, http, direct, runtime })
    }

    /// Runs a conversation with the hub to its end.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn asked<'a>(&'a self, kind: Kind, repository: &'a str, revision: Option<&'a str>) -> Asked<'a> {
        let Environment { endpoint, token, .. } = &self.environment;
        Asked { kind, repository, revision, endpoint, token: token.is_some() }
    }

    /// The commit and the files of a model's revision.
    pub async fn listing(&self, asked: Asked<'_>) -> Result<Listing> {
        let (owner, name) = hf_hub::split_id(asked.repository);
        let revision = asked.revision.unwrap_or("main");
        let info = self.api.model(owner, name).info().revision(revision).send().await;
        let info = info.map_err(|error| from_hf_hub(asked, &error))?;
        let commit = info.sha.filter(|commit| is_plain_name(commit));
        let commit = commit.ok_or_else(|| asked.error("the hub names no commit"))?;
        let files = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename).collect();
        Ok(Listing { commit, files })
    }

    /// What a file is, from the headers alone.
    pub async fn file(&self, asked: Asked<'_>, revision: &str, path: &str, watch: &Watch) -> Result<Remote> {
        let mut patience = Patience::default();
        loop {
            match self.head(asked, revision, path).await {
                Ok(remote) => return Ok(remote),
                Err(failure) => patience.wait(failure, path, watch).await?,
            }
        }
    }

    async fn head(&self, asked: Asked<'_>, revision: &str, path: &str) -> Result<Remote, Failure> {
        let hub = address(&self.environment, asked.kind, asked.repository, &["resolve", revision, path])?;
        let mut url = hub.clone();
        for _ in 0..REDIRECTS {
            let mut request = self.direct.head(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.environment.token.as_ref().filter(|_| url.origin() == hub.origin()) {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.map_err(|error| lost(asked, &error))?;
            let headers = response.headers();
            let (redirected, found) = (response.status().is_redirection(), remote(headers, response.status()));
            if let Some(remote) = found {
                return Ok(remote);
            }
            if redirected {
                // such as a renamed repository, which is described at its new address
                let next = text(headers, LOCATION.as_str()).and_then(|next| url.join(next).ok());
                url = next.ok_or_else(|| asked.error(format!("`{path}`: the hub redirects to nowhere")))?;
                continue;
            }
            if !response.status().is_success() {
                return Err(refused(asked, &response));
            }
            let error = asked.error(format!("`{path}`: the answer lacks an ETag, a commit or a length"));
            return Err(error.hint(format!("check that `HF_ENDPOINT` (now {}) is a hub", asked.endpoint)).into());
        }
        Err(asked.error(format!("`{path}`: too many redirects")).into())
    }

    /// A file's bytes from `from` on. The second value is where they begin: 0 where the server knows no ranges.
    pub async fn bytes(
        &self,
        asked: Asked<'_>,
        remote: &Remote,
        path: &str,
        from: u64,
    ) -> Result<(Response, u64), Failure> {
        let url = address(&self.environment, asked.kind, asked.repository, &["resolve", &remote.commit, path])?;
        // what is counted and hashed are the file's own bytes
        let mut request = self.http.get(url).header(ACCEPT_ENCODING, "identity");
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = &self.environment.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| lost(asked, &error))?;
        let (begin, length) = match response.status() {
            StatusCode::OK => (0, text(response.headers(), CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok())),
            StatusCode::PARTIAL_CONTENT => range(response.headers()).map_or((u64::MAX, None), |(a, b)| (a, Some(b))),
            _ => return Err(refused(asked, &response)),
        };
        let wrong = |cause: String| {
            let error = asked.error(format!("`{path}`: {cause}"));
            Failure::from(error.hint("start again later; where it stays so, the hub's copy or a proxy is damaged"))
        };
        if begin != from && begin != 0 {
            return Err(wrong("the server sends another part than the one that was asked for".to_owned()));
        }
        match length {
            Some(length) if length != remote.size => {
                Err(wrong(format!("the server sends a file of {length} bytes, but the hub says {}", remote.size)))
            }
            _ => Ok((response, begin)),
        }
    }
}

/// Counts attempts that brought nothing.
#[derive(Default)]
pub(super) struct Patience {
    failures: u32,
}

impl Patience {
    /// Something came: the next failure is the first again.
    pub fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, or gives the failure back where there is none.
    pub async fn wait(&mut self, failure: Failure, path: &str, watch: &Watch) -> Result<()> {
        let (error, asked_for) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { error, wait } => (error, wait),
        };
        self.failures += 1;
        let wait = asked_for.unwrap_or(FIRST_WAIT * 2_u32.pow(self.failures.min(ATTEMPTS) - 1));
        if self.failures >= ATTEMPTS || wait > LONGEST_WAIT {
            return Err(error);
        }
        // the first stumble is nobody's business, unless it takes long
        if self.failures > 1 || asked_for.is_some() {
            watch.tell(Event::Note(format!("`{path}`: {}; trying again", error.message())));
        }
        let slice = Duration::from_millis(100);
        let mut left = wait;
        while !left.is_zero() {
            watch.check()?;
            tokio::time::sleep(left.min(slice)).await;
            left = left.saturating_sub(slice);
        }
        Ok(())
    }
}

/// The address of something in a repository; a branch's slash is part of its name, a path's isn't.
fn address(environment: &Environment, kind: Kind, repository: &str, rest: &[&str]) -> Result<Url> {
    let wrong = |cause: String| {
        Error::input(format!("`HF_ENDPOINT` is no address of a hub: `{}`: {cause}", environment.endpoint))
            .hint("set it to an address such as `https://huggingface.co`, or unset it")
    };
    let mut url = Url::parse(&environment.endpoint).map_err(|cause| wrong(cause.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it begins neither with `http://` nor with `https://`".to_owned()));
    }
    let Ok(mut segments) = url.path_segments_mut() else { return Err(wrong("it has no path".to_owned())) };
    segments
        .pop_if_empty()
        .extend(kind.prefix().split('/').chain(repository.split('/')).filter(|part| !part.is_empty()));
    match rest {
        [what, revision, path] => segments.extend([what, revision]).extend(path.split('/')),
        other => segments.extend(other),
    };
    drop(segments);
    Ok(url)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|value| !value.is_empty())
}

/// What an answer's headers say of a file; those of a link count before those of the answer that holds it, and alone in
/// a redirect, which has a body of its own.
fn remote(headers: &HeaderMap, status: StatusCode) -> Option<Remote> {
    let header = |linked: &str, own: &str| match text(headers, linked) {
        None if status.is_success() => text(headers, own),
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

fn refused(asked: Asked<'_>, response: &Response) -> Failure {
    let headers = response.headers();
    let refusal = Refusal {
        status: response.status().as_u16(),
        code: text(headers, "x-error-code").map(str::to_owned),
        message: text(headers, "x-error-message").map(str::to_owned),
        wait: text(headers, "retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs),
    };
    let error = refusal.error(asked);
    if refusal.passes() { Failure::Passing { error, wait: refusal.wait } } else { Failure::Final(error) }
}

/// A connection that failed, or ended before its time.
pub(super) fn lost(asked: Asked<'_>, error: &reqwest::Error) -> Failure {
    Failure::Passing { error: asked.unreachable(root_cause(error)), wait: None }
}

/// The innermost cause: the outer ones say little more than that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn from_hf_hub(asked: Asked<'_>, error: &HFError) -> Error {
    let (context, wait) = match error {
        HFError::Http { context } | HFError::AuthRequired { context } | HFError::Forbidden { context } => {
            (Some(context), None)
        }
        HFError::RepoNotFound { context, .. } | HFError::RevisionNotFound { context, .. } => (context.as_ref(), None),
        HFError::RateLimited { retry_after, context } => (Some(context), *retry_after),
        HFError::Request { source, .. } => return asked.unreachable(root_cause(source)),
        _ => (None, None),
    };
    match context {
        Some(context) => {
            let (code, message) = (context.error_code.clone(), context.server_message.clone());
            Refusal { status: context.status.as_u16(), code, message, wait }.error(asked)
        }
        None => asked
            .error(format!("the hub's answer can't be read: {error}"))
            .hint(format!("check that `HF_ENDPOINT` (now {}) is a hub", asked.endpoint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
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
        let found = remote(&headers(&linked), StatusCode::FOUND).unwrap();
        assert_eq!((found.sha256(), found.size), (Some(digest.as_str()), 4096));
        let small = headers(&[("etag", "W/\"abc\""), ("content-length", "12"), ("x-repo-commit", "c0ffee")]);
        let described = Remote { etag: "abc".to_owned(), commit: "c0ffee".to_owned(), size: 12 };
        assert_eq!(remote(&small, StatusCode::OK), Some(described));
        assert_eq!(remote(&small, StatusCode::TEMPORARY_REDIRECT), None);
    }

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        let hostile = |etag: &str, commit: &str| {
            remote(&headers(&[("etag", etag), ("content-length", "1"), ("x-repo-commit", commit)]), StatusCode::OK)
        };
        assert_eq!(hostile("../../etc/passwd", "c0ffee"), None);
        assert_eq!(hostile("abc", "../x"), None);
        assert!(hostile("abc", "c0ffee").is_some());
    }

    #[test]
    fn a_slash_is_part_of_a_branch_and_divides_a_path() {
        let environment = Environment { endpoint: "http://hub/mirror".to_owned(), ..Environment::read() };
        let url = address(&environment, Kind::Dataset, "a/b", &["resolve", "refs/pr/1", "x y/z.json"]).unwrap();
        assert_eq!(url.as_str(), "http://hub/mirror/datasets/a/b/resolve/refs%2Fpr%2F1/x%20y/z.json");
        for wrong in ["huggingface.co", "ftp://hub", ""] {
            let environment = Environment { endpoint: wrong.to_owned(), ..environment.clone() };
            assert!(address(&environment, Kind::Model, "a/b", &[]).is_err(), "{wrong}");
        }
    }
}
