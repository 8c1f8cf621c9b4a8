use std::fs;
use std::path::PathBuf;

use ept_sweep::analysis::PowerTrace;
use ept_sweep::analysis::{Estimate, Interval, Study, Verdict};
use ept_sweep::figures::picture::{Picture, Text};
use ept_sweep::figures::{self, draw_all};
use ept_sweep::record::{EnergyMethod, Role};

use crate::fixture;

/// A folder of its own for a test, away from the repository.
fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ept-sweep-{name}-{}", std::process::id()))
}

/// The figures that a study has, by name.
pub(crate) fn pictures(study: &Study, power: &[PowerTrace]) -> Vec<(&'static str, Picture)> {
    let found = [
        ("energy_accuracy", figures::energy_accuracy::series(study).map(|s| figures::energy_accuracy::draw(&s))),
        ("savings", figures::savings::series(study).map(|s| figures::savings::draw(&s))),
        ("ept_batch", figures::ept_batch::series(study).map(|s| figures::ept_batch::draw(&s))),
        ("ept_length", figures::ept_length::series(study).map(|s| figures::ept_length::draw(&s))),
        ("power", figures::power::series(study, power).map(|s| figures::power::draw(&s))),
    ];
    found.into_iter().filter_map(|(name, picture)| Some((name, picture?))).collect()
}

fn assert_well_laid_out(name: &str, picture: &Picture) {
    let texts: Vec<&Text> = picture.texts().filter(|text| !text.text.is_empty()).collect();
    for (i, text) in texts.iter().enumerate() {
        assert!(text.size >= 7.0, "{name}: `{}` is smaller than 7 points", text.text);
        let [left, top, right, bottom] = text.bounds();
        let inside = left >= 0.0 && top >= 0.0 && right <= picture.width && bottom <= picture.height;
        assert!(inside, "{name}: `{}` is cut off: {:?}", text.text, text.bounds());
        for other in &texts[i + 1..] {
            let b = other.bounds();
            let apart = right <= b[0] || b[2] <= left || bottom <= b[1] || b[3] <= top;
            assert!(apart, "{name}: `{}` and `{}` overlap", text.text, other.text);
        }
    }
}

fn check(study: &Study, power: &[PowerTrace]) -> Vec<&'static str> {
    let pictures = pictures(study, power);
    for (name, picture) in &pictures {
        assert_well_laid_out(name, picture);
        let svg = picture.svg("alt").unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
    pictures.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_full_study_has_all_five_figures() {
    let all = ["energy_accuracy", "savings", "ept_batch", "ept_length", "power"];
    assert_eq!(check(&fixture::study(), &fixture::power()), all);
    assert_eq!(check(&fixture::spoiled(), &fixture::power()), all);
}

#[test]
fn figures_are_written_as_svg_and_png() {
    let dir = folder("figures");
    let files = draw_all(&fixture::study(), &fixture::power(), &dir).unwrap();
    assert_eq!(files.len(), 5);
    for file in &files {
        assert_eq!(fs::read_to_string(&file.svg_path).unwrap(), file.svg);
        let png = fs::read(&file.png_path).unwrap();
        let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
        // 180 mm at 300 pixels an inch
        assert!((2125..=2127).contains(&width), "{}: {width}", file.name);
        assert!(!file.caption.is_empty() && !file.alt.is_empty());
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_study_without_anything_has_no_figures() {
    let nothing = fixture::grid(&[], &[], &[]);
    assert!(check(&nothing, &[]).is_empty());
    let dir = folder("no-figures");
    assert!(draw_all(&nothing, &[], &dir).unwrap().is_empty());
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn one_cell_has_no_lines_to_draw() {
    let one = fixture::grid(&[("only".to_owned(), Role::Model, 0.03, 0.5)], &[1], &[16]);
    assert_eq!(check(&one, &[]), ["energy_accuracy"]);
}

#[test]
fn equal_and_zero_values_are_drawn() {
    let mut study = fixture::study();
    for (i, point) in study.points.iter_mut().enumerate() {
        point.ept_out_j = Estimate { value: 0.01, interval: Some(Interval { low: 0.01, high: 0.01 }), n: 5 };
        point.accuracy = Estimate { value: 0.0, interval: None, n: 1 };
        point.on_front = i == 0;
    }
    for cell in &mut study.cells {
        cell.ept_out_j = Some(Estimate { value: 0.0, interval: None, n: 1 });
    }
    for saving in &mut study.savings {
        saving.ept_out = fixture::comparison(0.0, 0.0, Verdict::Equivalent);
    }
    let flat = PowerTrace { points: vec![(0.0, 0.0), (1.0, 0.0)], t0: 0.0, t1: 0.0, ..fixture::power()[0].clone() };
    assert_eq!(check(&study, &[flat]).len(), 5);
}

#[test]
fn unknown_infinite_and_huge_intervals_are_drawn() {
    let mut study = fixture::study();
    study.points[0].ept_out_j.value = f64::NAN;
    study.points[1].ept_out_j.interval = Some(Interval { low: -1.0, high: f64::INFINITY });
    study.cells[0].ept_out_j.as_mut().unwrap().interval = Some(Interval { low: -0.5, high: 3.0 });
    study.cells[2].ept_out_j = None;
    study.savings[0].ept_out = fixture::comparison(0.4, 60.0, Verdict::Inconclusive);
    study.savings[1].ept_out.saving = None;
    study.savings[2].ept_out.saving = Some(Estimate { value: 0.3, interval: None, n: 1 });
    let mut power = fixture::power();
    power[0].points[3].1 = f64::NAN;
    power[1].points.clear();
    assert_eq!(check(&study, &power).len(), 5);
}

#[test]
fn twelve_models_with_hostile_labels_are_drawn() {
    let label = |i: usize| match i % 3 {
        0 => format!("<script>alert({i})</script> & \"quotes\" 'x'"),
        1 => format!("a-very-long-label-of-a-model-that-nobody-would-want-to-read-in-a-figure-but-exists-v{i}"),
        _ => format!("m{i}"),
    };
    let role = |i: usize| if i == 0 { Role::Teacher } else { Role::Student };
    let models: Vec<_> = (0..12).map(|i| (label(i), role(i), 0.1 / (i + 1) as f64, 0.95 - 0.05 * i as f64)).collect();
    let study = fixture::grid(&models, &[1, 2, 4, 8, 16, 32, 64], &[8, 16, 32, 64, 128, 256]);
    let power: Vec<_> = models.iter().map(|(label, role, _, _)| fixture::trace(label, *role, 0.0)).collect();
    assert_eq!(check(&study, &power).len(), 5);
    for (name, picture) in pictures(&study, &power) {
        // 240 mm: a page
        assert!(picture.height < 680.0, "{name} is {} points high", picture.height);
        assert!(!picture.svg("<alt>").unwrap().contains("<script"), "{name}");
    }
}

#[test]
fn prefill_is_shaded_inside_the_window_where_it_can_be_seen() {
    let rectangles = |prefill: Vec<(f64, f64)>| {
        let trace = PowerTrace { prefill, ..fixture::power()[0].clone() };
        let series = figures::power::series(&fixture::study(), &[trace]).unwrap();
        let svg = figures::power::draw(&series).svg("alt").unwrap();
        (svg.to_lowercase().matches("\"#cfd8e4\"").count(), series.caption().contains("prefill"))
    };
    assert_eq!(rectangles(vec![]), (0, false));
    assert_eq!(rectangles(vec![(101.6, 102.2), (104.0, 104.6)]), (2, true));
    let thin = (0..1000).map(|i| 101.5 + f64::from(i) * 0.005).map(|t| (t, t + 0.001));
    assert_eq!(rectangles(thin.collect()), (0, false), "a thousand spans are a blur");
}

#[test]
fn energies_that_are_not_measured_are_marked_in_every_picture() {
    for (method, mark) in
        [(EnergyMethod::Modelled, "modelled, not measured"), (EnergyMethod::Simulated, "simulated, not measured")]
    {
        let mut study = fixture::study();
        study.methods = vec![method];
        for (name, picture) in pictures(&study, &fixture::power()) {
            assert!(picture.texts().any(|text| text.text == mark), "{name}");
        }
    }
    let measured = pictures(&fixture::study(), &fixture::power());
    assert!(measured.iter().flat_map(|(_, p)| p.texts()).all(|text| !text.text.contains("not measured")));
}
