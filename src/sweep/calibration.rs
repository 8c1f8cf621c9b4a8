//! `measure.calibration` of the sweep file: where the costs behind the energy floor come from.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::{EnergyMethod, MeterInfo};

/// Where a run gets what reading and multiplying cost on its devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum CalibrationChoice {
    /// It measures them if its meter measures.
    #[default]
    Auto,
    /// It measures them, on a simulated device as well.
    Measure,
    /// It does without: no energy floor is known.
    Off,
    /// A file that `ept-sweep calibrate` wrote, or the directory of a run that has a calibration; relative to the sweep
    /// file.
    File(PathBuf),
}

const AUTO: &str = "auto";
const MEASURE: &str = "measure";
const OFF: &str = "off";

impl CalibrationChoice {
    pub(crate) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    /// Whether a run on this meter measures a calibration. A modelled energy shows nothing of a device.
    pub(crate) fn measures(&self, meter: &MeterInfo) -> bool {
        match (self, meter.method) {
            (_, EnergyMethod::Modelled) | (Self::Off | Self::File(_), _) => false,
            (Self::Auto, method) => matches!(method, EnergyMethod::Counter | EnergyMethod::PowerIntegral),
            (Self::Measure, _) => true,
        }
    }
}

impl<'de> Deserialize<'de> for CalibrationChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            AUTO => Self::Auto,
            MEASURE => Self::Measure,
            OFF => Self::Off,
            _ => Self::File(text.into()),
        })
    }
}

impl Serialize for CalibrationChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Measure => serializer.serialize_str(MEASURE),
            Self::Off => serializer.serialize_str(OFF),
            Self::File(path) => path.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::fixtures;

    #[test]
    fn only_meters_that_measure_calibrate_on_their_own_and_a_modelled_one_never_does() {
        let measures = |choice: CalibrationChoice| {
            [EnergyMethod::Counter, EnergyMethod::PowerIntegral, EnergyMethod::Simulated, EnergyMethod::Modelled]
                .map(|method| choice.measures(&MeterInfo { method, ..fixtures::info(&["gpu0"]) }))
        };
        assert_eq!(measures(CalibrationChoice::Auto), [true, true, false, false]);
        assert_eq!(measures(CalibrationChoice::Measure), [true, true, true, false]);
        assert_eq!(measures(CalibrationChoice::Off), [false; 4]);
        assert_eq!(measures(CalibrationChoice::File("a".into())), [false; 4]);
    }

    #[test]
    fn a_word_that_is_none_of_the_choices_is_a_path() {
        let read = |text: &str| serde_json::from_str::<CalibrationChoice>(text).unwrap();
        assert_eq!(read("\"off\""), CalibrationChoice::Off);
        assert_eq!(read("\"h100.json\""), CalibrationChoice::File("h100.json".into()));
    }
}
