//! How a sweep file names something on the hub.

/// A repository of the hub and, where a single file of it is meant, which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// `owner/name`, or the bare name of one of the hub's oldest models (`gpt2`).
    pub(crate) repository: String,
    /// The GGUF file that is meant; without one, the model in safetensors.
    pub(crate) gguf: Option<Gguf>,
}

/// Which GGUF file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gguf {
    /// The file at this path in the repository.
    File(String),
    /// The one whose name ends with this quantisation, such as `Q4_K_M`.
    Quantisation(String),
}

impl Source {
    /// Reads `owner/name`, `name`, `owner/name/file.gguf`, `owner/name:file.gguf` or `owner/name:Q4_K_M`; `None` where
    /// the text can't be one of them.
    ///
    /// The colon with a quantisation is llama.cpp's (`-hf owner/name:Q4_K_M`); a slash before the file is how the hub's
    /// own pages put it.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((repository, which)) = text.split_once(':') {
            let gguf = gguf(which)?;
            return is_repository(repository).then(|| Self { repository: repository.to_owned(), gguf: Some(gguf) });
        }
        let names_file = is_gguf(text);
        match text.splitn(3, '/').collect::<Vec<_>>()[..] {
            [owner, name, file] if names_file && is_plain_path(file) => {
                let repository = format!("{owner}/{name}");
                is_repository(&repository).then(|| Self { repository, gguf: Some(Gguf::File(file.to_owned())) })
            }
            [_] | [_, _] if !names_file && is_repository(text) => {
                Some(Self { repository: text.to_owned(), gguf: None })
            }
            _ => None,
        }
    }
}

/// Whether a path or source names a GGUF file.
pub(crate) fn is_gguf(text: &str) -> bool {
    let ending = text.len().checked_sub(5).and_then(|at| text.get(at..));
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case(".gguf"))
}

fn gguf(text: &str) -> Option<Gguf> {
    if is_gguf(text) {
        return is_plain_path(text).then(|| Gguf::File(text.to_owned()));
    }
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    plain.then(|| Gguf::Quantisation(text.to_owned()))
}

/// The hub's rule for ids: one or two names of at most 96 letters, digits, `-`, `_` and `.` together, that neither
/// begin nor end with `-` or `.`, without `--` and `..`.
fn is_repository(id: &str) -> bool {
    let name = |part: &str| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        plain && !part.is_empty() && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let doubled = id.contains("--") || id.contains("..");
    id.len() <= 96 && !doubled && !id.ends_with(".git") && id.split('/').count() <= 2 && id.split('/').all(name)
}

/// Whether a path stays inside the folder that it is joined to, and says so in the hub's form (`a/b.txt`).
pub(super) fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0', ':']);
    path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<Gguf>)> {
        Source::parse(text).map(|source| (source.repository, source.gguf))
    }

    #[test]
    fn a_hub_id_is_an_owner_and_a_name_or_a_name_alone() {
        for id in ["meta-llama/Llama-3.2-1B", "gpt2", "a/b.c_d"] {
            assert_eq!(parsed(id), Some((id.to_owned(), None)));
        }
    }

    #[test]
    fn what_can_only_be_a_path_is_no_hub_id() {
        for path in ["./models/gpt2", "../gpt2", "/abs/path", "a/", "a/b/c", "~/m", "a//b", "m.gguf", "dir/m.gguf", ""]
        {
            assert_eq!(parsed(path), None, "{path}");
        }
        for broken in ["-a/b", "a/b.", "a--b/c", "a/b.git", "a/b c", "a/b/../c.gguf", "a/b:../c.gguf", "a/b:"] {
            assert_eq!(parsed(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_gguf_file_follows_a_slash_or_a_colon() {
        let file = |path: &str| Some(("owner/name".to_owned(), Some(Gguf::File(path.to_owned()))));
        assert_eq!(parsed("owner/name/m-Q8_0.gguf"), file("m-Q8_0.gguf"));
        assert_eq!(parsed("owner/name:m-Q8_0.gguf"), file("m-Q8_0.gguf"));
        assert_eq!(parsed("owner/name/BF16/m.GGUF"), file("BF16/m.GGUF"));
    }

    #[test]
    fn a_quantisation_follows_a_colon() {
        let wanted = Some(Gguf::Quantisation("Q4_K_M".to_owned()));
        assert_eq!(parsed("owner/name:Q4_K_M"), Some(("owner/name".to_owned(), wanted)));
    }
}
