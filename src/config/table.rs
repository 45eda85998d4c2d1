//! A table of the file that is nothing but a table.
//!
//! Owns the one thing that serde's derived structs get wrong for us: they would also take a list of
//! values in the order of their fields. Judges nothing; the struct inside says which keys there are.
//!
//! What surprises: it is read as a map whatever the format offers, so a list is a wrong type and is
//! complained about at its place.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// A table, and nothing else: serde's derived structs would also take a list of values in the order of their
/// fields, and `memory = [31337]` would silently mean something.
#[derive(Clone, Default)]
pub(crate) struct Table<T>(pub(crate) T);

// === impl Table ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(TableVisitor(PhantomData))
    }
}

/// Hands a table's keys to the struct; everything that is no table is a wrong type.
struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = Table<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Table)
    }
}

impl<T> Deref for Table<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
