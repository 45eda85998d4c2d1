//! A fixed number of facts by hash, where new ones displace old ones.
//!
//! Owns the places. Never grows beyond its size, never allocates before its first fact. What
//! surprises: each fact has two places to be in, and the one that was touched longer ago gives way;
//! so what is lost is nearly the oldest, without a list to keep in order.

use crate::clock::Micros;

/// The facts.
#[derive(Debug)]
pub struct Table<T> {
    places: Vec<Place<T>>,
    /// A power of two.
    size: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place<T> {
    /// The hash; zero: nobody is here.
    hash: u64,
    at: Micros,
    fact: T,
}

// === impl Table ===

impl<T: Copy + Default> Table<T> {
    /// A table of at most `size` facts, which is a power of two.
    #[must_use]
    pub fn new(size: usize) -> Self {
        debug_assert!(size.is_power_of_two() && size > 1);
        Self { places: Vec::new(), size }
    }

    /// What is known under a hash, and since when.
    #[must_use]
    pub fn get(&self, hash: u64) -> Option<(T, Micros)> {
        let hash = hash.max(1);
        let place = self
            .both(hash)
            .into_iter()
            .find_map(|index| self.places.get(index).filter(|place| place.hash == hash))?;
        Some((place.fact, place.at))
    }

    /// Remembers a fact; what was known under this hash is replaced.
    pub fn put(&mut self, hash: u64, fact: T, now: Micros) {
        if self.places.is_empty() {
            self.places = vec![Place::default(); self.size];
        }
        let hash = hash.max(1);
        let [one, other] = self.both(hash).map(|index| (index, self.places.get(index)));
        let is = |place: Option<&Place<T>>| place.is_some_and(|place| place.hash == hash);
        let age = |place: Option<&Place<T>>| place.map(|place| place.at);
        let index = match () {
            () if is(one.1) => one.0,
            () if is(other.1) => other.0,
            () if age(one.1) <= age(other.1) => one.0,
            () => other.0,
        };
        if let Some(place) = self.places.get_mut(index) {
            *place = Place { hash, at: now, fact };
        }
    }

    /// Forgets everything, and gives its memory back.
    pub fn clear(&mut self) {
        self.places = Vec::new();
    }

    /// Where a fact may be.
    fn both(&self, hash: u64) -> [usize; 2] {
        let mask = self.size - 1;
        // Masked first: it fits any usize.
        let low = (hash & mask as u64) as usize;
        let high = ((hash >> 32) & mask as u64) as usize;
        [low, if low == high { low ^ 1 } else { high }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_of_two_gives_way_and_a_known_one_is_replaced_in_place() {
        let mut table = Table::new(2);
        assert_eq!(table.get(8), None);
        table.put(8, 'a', 1);
        table.put(10, 'b', 2);
        assert_eq!((table.get(8), table.get(10)), (Some(('a', 1)), Some(('b', 2))));
        table.put(8, 'c', 3);
        assert_eq!((table.get(8), table.get(10)), (Some(('c', 3)), Some(('b', 2))));
        table.put(12, 'd', 4);
        assert_eq!((table.get(8), table.get(10)), (Some(('c', 3)), None));
        table.clear();
        assert_eq!(table.get(8), None);
    }

    #[test]
    fn a_hash_of_zero_is_like_any_other() {
        let mut table = Table::new(4);
        assert_eq!(table.get(0), None);
        table.put(0, 'a', 0);
        assert_eq!(table.get(0), Some(('a', 0)));
    }
}
