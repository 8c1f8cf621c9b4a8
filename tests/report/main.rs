//! Figures and reports of made-up studies: what they say, and that nothing in a study can break them.

mod figures;
mod fixture;
mod page;
