//! What the command lines of several examples are made of.

use std::{ffi::OsString, ops::RangeInclusive};

pub fn text(argument: OsString) -> Result<String, String> {
    argument.into_string().map_err(|argument| format!("{argument:?}: not UTF-8"))
}

/// `--name value` may also be written as `--name=value`.
pub fn split(argument: &str) -> (&str, Option<&str>) {
    match argument.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (argument, None),
    }
}

pub fn number(name: &str, value: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    let (least, most) = range.into_inner();
    number.ok_or_else(|| format!("{name}: '{value}' is not a number from {least} to {most}"))
}

pub fn choice<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(known, _)| *known == value).map(|(_, choice)| *choice);
    let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
    chosen.ok_or_else(|| format!("{name}: '{value}' is not one of {}", known.join(", ")))
}
