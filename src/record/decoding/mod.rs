//! How the tokens of an answer are chosen: part of what is measured, since it decides how much work an answer takes.

mod check;
mod settings;
mod written;

pub use settings::{BeamSearch, Decoding, EarlyStopping, Sampling};

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Decoding, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let beam = BeamSearch { num_beams: 4, length_penalty: 0.5, early_stopping: EarlyStopping::Never };
        let sampling = Sampling { temperature: 0.7, top_k: 0, top_p: 0.9, min_p: Some(0.05), seed: 7 };
        for (decoding, json) in [
            (Decoding::Greedy, r#""greedy""#),
            (
                Decoding::Sample(sampling),
                r#"{"sample":{"temperature":0.7,"top_k":0,"top_p":0.9,"min_p":0.05,"seed":7}}"#,
            ),
            (Decoding::Beam(beam), r#"{"beam":{"num_beams":4,"length_penalty":0.5,"early_stopping":"never"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&decoding).unwrap(), json);
            assert_eq!(read(json).unwrap(), decoding);
        }
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let sampling = Sampling { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: None, seed: 42 };
        assert_eq!(read(r#""sample""#).unwrap(), Decoding::Sample(sampling));
        assert_eq!(read(r#"{"sample":{}}"#).unwrap(), Decoding::Sample(sampling));
        let beam = BeamSearch { num_beams: 2, length_penalty: 1.0, early_stopping: EarlyStopping::Likely };
        assert_eq!(read(r#"{"beam":{"num_beams":2}}"#).unwrap(), Decoding::Beam(beam));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for json in [
            r#""sampel""#,
            r#""beam""#,
            "{}",
            r#"{"beam":{}}"#,
            r#"{"sample":{},"beam":{"num_beams":2}}"#,
            r#"{"sample":{"topk":5}}"#,
            r#"{"beam":{"num_beams":2,"early_stopping":"always"}}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
        for (json, key) in [
            (r#"{"sample":{"temperature":0}}"#, "temperature"),
            (r#"{"sample":{"top_p":0}}"#, "top_p"),
            (r#"{"sample":{"top_p":1.5}}"#, "top_p"),
            (r#"{"sample":{"min_p":-0.1}}"#, "min_p"),
            (r#"{"beam":{"num_beams":1}}"#, "num_beams"),
            (r#"{"beam":{"num_beams":2,"length_penalty":9}}"#, "length_penalty"),
        ] {
            assert_eq!(read(json).unwrap().check().unwrap_err().key, key, "{json}");
        }
        let endless = Sampling { temperature: f64::NAN, ..Sampling::default() };
        assert_eq!(Decoding::Sample(endless).check().unwrap_err().key, "temperature");
    }
}
