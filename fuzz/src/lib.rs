//! What the fuzz targets share.
//!
//! Owns the reading of an input as a list of decisions ([`tape`]), the cutting of bytes into pieces ([`pieces`]),
//! and a whole proxy without sockets between clients and a node that are models ([`world`]). Never judges the
//! proxy by its own code where an independent judge is short enough to be written here.

pub mod pieces;
pub mod tape;
pub mod world;
