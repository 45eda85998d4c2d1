//! Maps of numbers from several nodes (MEMORY STATS, LATENCY HISTOGRAM), field by field.
//!
//! Owns that one rule: counts and bytes are added, shares and ratios are those of the worst node,
//! anything else is the first node's. Never decides which commands are such maps (`merge` does).
//!
//! What surprises: in RESP2 a map is an array of twice as many elements, and nothing in its bytes
//! says so. Only replies that are known to be maps come here.

use std::collections::HashMap;

use super::Odd;
use crate::resp::frames::{self, Elements};
use crate::resp::write;

/// One field: its name as it is spelled, and its values.
type Field<'a> = (&'a [u8], Vec<&'a [u8]>);

/// Appends the map that `replies` make together.
///
/// # Errors
/// [`Odd`]: one of them is no map.
pub(super) fn merged<'a>(
    replies: impl Iterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Odd> {
    let maps: Vec<&[u8]> = replies.collect();
    if maps.iter().any(|map| pairs(map).is_none()) {
        return Err(Odd);
    }
    map(&maps, 0, out);
    Ok(())
}

/// Appends one map, whose spelling is that of the first.
fn map(maps: &[&[u8]], depth: u32, out: &mut Vec<u8>) {
    let mut fields: Vec<Field<'_>> = Vec::new();
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    for (name, value) in maps.iter().filter_map(|map| pairs(map)).flatten() {
        let place = *known.entry(name).or_insert(fields.len());
        match fields.get_mut(place) {
            Some((_, values)) => values.push(value),
            None => fields.push((name, vec![value])),
        }
    }
    let is_map = maps.first().and_then(|map| map.first()) == Some(&b'%');
    let (kind, each) = if is_map { (b'%', 1) } else { (b'*', 2) };
    write::aggregate_header(out, kind, fields.len() * each);
    for (name, values) in &fields {
        out.extend_from_slice(name);
        value(values, depth, out);
    }
}

/// Appends what the values of one field make together.
fn value(values: &[&[u8]], depth: u32, out: &mut Vec<u8>) {
    let Some(first) = values.first() else {
        return;
    };
    let integers: Option<Vec<i64>> = values.iter().map(|value| frames::integer(value)).collect();
    if let Some(integers) = integers {
        let sum = integers.iter().fold(0_i64, |sum, value| sum.saturating_add(*value));
        write::integer(out, sum);
    } else if depth < DEPTH_MAX && values.iter().all(|value| pairs(value).is_some()) {
        map(values, depth + 1, out);
    } else {
        // What is no integer is a share or a ratio.
        let worst = values.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        out.extend_from_slice(if ratio(first).is_nan() { first } else { worst.unwrap_or(first) });
    }
}

/// The value of a double, in either spelling; NaN for anything else.
fn ratio(frame: &[u8]) -> f64 {
    let text = match frame {
        [b',', text @ ..] => Some(text),
        _ => frames::string(frame),
    };
    let number = text.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
    number.unwrap_or(f64::NAN)
}

/// Names and values, if the frame can be a map.
fn pairs(frame: &[u8]) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
    let (head, mut elements) = Elements::within(frame)?;
    let is_even = head.kind == b'%' || (head.kind == b'*' && head.number % 2 == 0);
    (is_even && head.number >= 0)
        .then(|| std::iter::from_fn(move || Some((elements.next()?, elements.next()?))))
}

/// Levels of maps within maps; LATENCY HISTOGRAM has three.
const DEPTH_MAX: u32 = 4;
