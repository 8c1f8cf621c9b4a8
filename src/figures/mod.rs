//! The figures of a report: each prepares its data in a pure `series()` and puts them on paper in `draw()`.
//!
//! Takes plain structs from `analysis`; decides no number and no verdict.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::analysis::{PowerTrace, Study};
use crate::error::{Context, Result};

pub(crate) mod axis;
pub mod energy_accuracy;
pub mod ept_batch;
pub mod ept_length;
pub(crate) mod legend;
pub(crate) mod lines;
pub mod picture;
pub mod power;
pub mod savings;
pub(crate) mod theme;
mod typeface;

use picture::Picture;

/// A figure that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct FigureFile {
    /// Stem of its files: `energy_accuracy`.
    pub name: &'static str,
    /// For people: `Energy and accuracy`.
    pub title: &'static str,
    /// What it shows and how to read it.
    pub caption: String,
    /// For readers who can't see it.
    pub alt: String,
    /// The SVG itself.
    pub svg: String,
    /// The file with `svg` in it: `energy_accuracy.svg` in the folder of the figures.
    pub svg_path: PathBuf,
    /// At 300 pixels an inch of its size in print.
    pub png_path: PathBuf,
}

/// A figure before it is written.
struct Sketch {
    name: &'static str,
    title: &'static str,
    caption: String,
    alt: String,
    picture: Picture,
}

/// Draws every figure for which the study has data, and writes each as SVG and PNG into `dir`.
///
/// # Errors
/// `dir` can't be created, or a file in it can't be written.
pub fn draw_all(study: &Study, power: &[PowerTrace], dir: &Path) -> Result<Vec<FigureFile>> {
    fs::create_dir_all(dir).context(|| format!("can't create `{}`", dir.display()))?;
    sketches(study, power).into_par_iter().map(|sketch| write(sketch, dir)).collect()
}

fn sketches(study: &Study, power: &[PowerTrace]) -> Vec<Sketch> {
    macro_rules! sketch {
        ($figure:ident, $title:literal, $series:expr) => {
            $series.map(|series| Sketch {
                name: stringify!($figure),
                title: $title,
                caption: series.caption(),
                alt: series.alt(),
                picture: $figure::draw(&series),
            })
        };
    }
    [
        sketch!(energy_accuracy, "Energy and accuracy", energy_accuracy::series(study)),
        sketch!(savings, "Savings relative to the teacher", savings::series(study)),
        sketch!(ept_batch, "Energy per token by batch size", ept_batch::series(study)),
        sketch!(ept_length, "Energy per token by output length", ept_length::series(study)),
        sketch!(power, "Power over time", power::series(study, power)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn write(sketch: Sketch, dir: &Path) -> Result<FigureFile> {
    let Sketch { name, title, caption, alt, picture } = sketch;
    let svg = picture.svg(&alt)?;
    let svg_path = dir.join(format!("{name}.svg"));
    let png_path = dir.join(format!("{name}.png"));
    fs::write(&svg_path, &svg).context(|| format!("can't write `{}`", svg_path.display()))?;
    picture.write_png(&png_path)?;
    Ok(FigureFile { name, title, caption, alt, svg, svg_path, png_path })
}
