//! ROUGE-L (Lin 2004): F1 over the longest common subsequence of words.

/// ROUGE-L F1 of an answer against a reference, in 0..=1.
///
/// Words as Google's `rouge_score` takes them without stemming: lower case, everything but ASCII letters and digits is
/// a separator. Two texts without words score 0.
pub fn rouge_l(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (words(answer), words(reference));
    let common = longest_common_subsequence(&answer, &reference) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (common / answer.len() as f64, common / reference.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn longest_common_subsequence(left: &[String], right: &[String]) -> usize {
    let mut row = vec![0usize; right.len() + 1];
    for word in left {
        let mut diagonal = 0;
        for (index, other) in right.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if word == other { diagonal + 1 } else { above.max(row[index]) };
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_paper_gives_its_value() {
        // Lin 2004, section 3.1, with beta = 1: "police killed the gunman" against two candidates
        let reference = "police killed the gunman";
        assert!((rouge_l("police kill the gunman", reference) - 0.75).abs() < 1e-12);
        assert!((rouge_l("the gunman kill police", reference) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn case_and_punctuation_do_not_count_and_nothing_in_common_is_zero() {
        assert_eq!(rouge_l("The Gunman.", "the gunman"), 1.0);
        assert_eq!(rouge_l("", "the gunman"), 0.0);
        assert_eq!(rouge_l("red", "blue"), 0.0);
    }
}
