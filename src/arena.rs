//! A growable array of owned things with keys that never lie.
//!
//! Owns sessions and lanes of one worker. Never hands out a key twice: each place counts its tenants, so a key
//! of a client that has gone finds nothing, instead of the client that came after it. That is what makes a
//! waiter whose client is gone a harmless tombstone (INV-1).
//!
//! What surprises: a tenant may be *lent* ([`Arena::lend`]) while it works on its worker, and must be returned;
//! a lent tenant that is dropped by a panic frees its place with [`Arena::remove`].

use std::marker::PhantomData;

/// The place of a `T`, and which tenant of that place.
#[derive(Debug)]
pub struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    taken: bool,
    tenant: Option<Box<T>>,
}

/// The array.
#[derive(Debug)]
pub struct Arena<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

// === impl Key ===

impl<T> Key<T> {
    /// The key of no tenant: what holds it belongs to nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self { index: u32::MAX, generation: u32::MAX, of: PhantomData }
    }

    /// The key as a number, to be compared with others of the same arena.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }
}

// Derived impls would ask for `T: Copy`.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.generation == other.generation
    }
}

impl<T> Eq for Key<T> {}

impl<T> std::hash::Hash for Key<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}

// === impl Arena ===

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    /// Reserves a place and puts there what `make` builds from the key.
    pub fn insert(&mut self, make: impl FnOnce(Key<T>) -> T) -> Key<T> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, taken: false, tenant: None });
            // Four billion clients do not fit the memory of one process.
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let mut key = Key { index, generation: 0, of: PhantomData };
        if let Some(place) = self.places.get_mut(index as usize) {
            key.generation = place.generation;
            place.taken = true;
            place.tenant = Some(Box::new(make(key)));
        }
        key
    }

    /// The tenant, unless it is gone or lent.
    #[must_use]
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        self.place(key)?.tenant.as_deref()
    }

    /// The tenant, unless it is gone or lent.
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        self.place_mut(key)?.tenant.as_deref_mut()
    }

    /// Takes the tenant out for a while; its key stays valid.
    pub fn lend(&mut self, key: Key<T>) -> Option<Box<T>> {
        self.place_mut(key)?.tenant.take()
    }

    /// Puts a lent tenant back. If it was removed meanwhile it is dropped.
    pub fn restore(&mut self, key: Key<T>, tenant: Box<T>) {
        if let Some(place) = self.place_mut(key) {
            place.tenant = Some(tenant);
        }
    }

    /// Frees the place, lent or not; the key is void from then on.
    pub fn remove(&mut self, key: Key<T>) -> Option<Box<T>> {
        let place = self.place_mut(key)?;
        place.taken = false;
        place.generation = place.generation.wrapping_add(1);
        let tenant = place.tenant.take();
        self.free.push(key.index);
        tenant
    }

    /// Whether the key still has a tenant, present or lent.
    #[must_use]
    pub fn contains(&self, key: Key<T>) -> bool {
        self.place(key).is_some()
    }

    /// Keys of all tenants, present or lent.
    pub fn keys(&self) -> impl Iterator<Item = Key<T>> + '_ {
        self.places.iter().enumerate().filter(|(_, place)| place.taken).map(|(index, place)| Key {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            generation: place.generation,
            of: PhantomData,
        })
    }

    /// How many tenants there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is no tenant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&self, key: Key<T>) -> Option<&Place<T>> {
        let place = self.places.get(key.index as usize)?;
        (place.taken && place.generation == key.generation).then_some(place)
    }

    fn place_mut(&mut self, key: Key<T>) -> Option<&mut Place<T>> {
        let place = self.places.get_mut(key.index as usize)?;
        (place.taken && place.generation == key.generation).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_gone_tenant_finds_nothing_even_when_its_place_is_let_again() {
        let mut arena = Arena::default();
        let old = arena.insert(|_| "old");
        assert_eq!(arena.remove(old).as_deref(), Some(&"old"));
        let new = arena.insert(|_| "new");
        assert_eq!(old.index, new.index);
        assert_eq!((arena.get(old), arena.get(new)), (None, Some(&"new")));
        assert_eq!(arena.remove(old), None);
        assert_eq!(arena.len(), 1);
    }

    #[test]
    fn a_lent_tenant_keeps_its_key_and_comes_back() {
        let mut arena = Arena::default();
        let key = arena.insert(|_| 7);
        let lent = arena.lend(key).unwrap();
        assert!(arena.get(key).is_none() && arena.contains(key) && arena.lend(key).is_none());
        arena.restore(key, lent);
        assert_eq!(arena.get(key), Some(&7));
        let lent = arena.lend(key).unwrap();
        arena.remove(key);
        arena.restore(key, lent);
        assert!(arena.is_empty() && arena.keys().count() == 0);
    }
}
