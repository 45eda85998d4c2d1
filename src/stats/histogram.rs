//! A log-linear latency histogram with one writer: fixed memory, about a nanosecond a sample.
//!
//! Values are whole microseconds. Below 16 µs each has a bucket of its own; above, every power of
//! two is cut into eight equal buckets, so a bucket is never wider than an eighth of its lower
//! edge. It never allocates, never locks and keeps no samples. The worker records, the scraper
//! takes a [`Snapshot`], merges those of all workers and asks it for quantiles or cumulative
//! counts. What surprises: `record` is a relaxed load and a relaxed store, no read-modify-write.
//! Two writers would lose samples; one writer and any number of readers lose none.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of equal width within one power of two.
const STEPS: u64 = 8;
/// `STEPS` as a power of two.
const STEPS_LOG2: u32 = STEPS.ilog2();
/// The largest value told apart, in µs: 268 s. Larger ones are recorded as this one.
pub const VALUE_US_MAX: u64 = (1 << 28) - 1;
/// Number of buckets that cover `0..=VALUE_US_MAX`.
const BUCKETS: usize = bucket_of(VALUE_US_MAX) + 1;

/// The upper edges that are exported, in µs; each is an edge of our buckets, so the cumulative
/// counts are exact. Denser where a Redis command usually lies, and up to the longest deadline.
pub const EXPORTED_EDGES_US: [u64; 20] = [
    16,
    32,
    64,
    128,
    192,
    256,
    384,
    512,
    1 << 10,
    1 << 11,
    1 << 12,
    1 << 13,
    1 << 14,
    1 << 15,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 26,
];

/// What a worker records into. 1,672 bytes.
#[derive(Debug)]
pub struct Histogram {
    /// Samples a bucket; see [`bucket_of`].
    counts: [AtomicU64; BUCKETS],
    /// Sum of all recorded values in µs, each cut to [`VALUE_US_MAX`].
    sum_us: AtomicU64,
}

/// A copy of one histogram, or the sum of several; belongs to the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

// === impl Histogram ===

impl Histogram {
    /// An empty histogram.
    pub const fn new() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], sum_us: AtomicU64::new(0) }
    }

    /// Records one duration in microseconds, rounded down as `Duration::as_micros` does.
    ///
    /// Only the owning worker may call this. Values above [`VALUE_US_MAX`] count as that value.
    #[inline]
    pub fn record(&self, us: u64) {
        self.record_many(us, 1);
    }

    /// Records `times` samples of the same duration: the commands of one batch share a clock read.
    #[inline]
    pub fn record_many(&self, us: u64, times: u64) {
        let us = us.min(VALUE_US_MAX);
        // The index is always in range; `get` only spares us a path that panics.
        if let Some(count) = self.counts.get(bucket_of(us)) {
            count.store(count.load(Relaxed).wrapping_add(times), Relaxed);
        }
        let sum = self.sum_us.load(Relaxed).wrapping_add(us.wrapping_mul(times));
        self.sum_us.store(sum, Relaxed);
    }

    /// A copy of the counts. While the worker records, its newest samples may be missing, and the
    /// sum may be ahead of or behind the counts by those samples; nothing is ever counted twice.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (copy, count) in snapshot.counts.iter_mut().zip(&self.counts) {
            *copy = count.load(Relaxed);
        }
        snapshot.sum_us = self.sum_us.load(Relaxed);
        snapshot
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Adds the samples of `other`, as if one histogram had recorded both.
    pub fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *own = own.wrapping_add(*theirs);
        }
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
    }

    /// Number of samples. Derived from the buckets, so it always agrees with them.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of the samples in µs, each cut to [`VALUE_US_MAX`].
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// The value in µs at or below which a share `quantile` (0.0 ..= 1.0) of the samples lies.
    ///
    /// Answers the largest value of the bucket: never below the exact quantile and at most an
    /// eighth above it. 0 if there are no samples. A quantile outside its range counts as the
    /// nearest end of it.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let count = self.count();
        // Nearest-rank definition: the first sample is rank 1 even for quantile 0. The cast
        // saturates, and NaN becomes 0.
        let rank = ((quantile * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (bucket, samples) in self.counts.iter().enumerate() {
            seen += samples;
            if seen >= rank {
                return lower_edge_us(bucket + 1) - 1;
            }
        }
        0
    }

    /// Number of samples below `edge_us`: exact for the edges of buckets, which those of
    /// [`EXPORTED_EDGES_US`] are; for others, samples in the bucket around the edge are left out.
    pub fn count_below(&self, edge_us: u64) -> u64 {
        let whole_buckets = bucket_of(edge_us.min(VALUE_US_MAX + 1));
        self.counts.iter().take(whole_buckets).sum()
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum_us: 0 }
    }
}

/// The bucket of a value: the bits above the three after the leading one select the power of two,
/// those three the step within it. Values below 8 have no such bits; `| STEPS` makes them shift by
/// nothing, so that no branch is needed.
#[inline]
const fn bucket_of(us: u64) -> usize {
    let shift = (us | STEPS).ilog2() - STEPS_LOG2;
    shift as usize * STEPS as usize + (us >> shift) as usize
}

/// The smallest value of a bucket in µs; the inverse of [`bucket_of`]. One past the last bucket
/// gives the first value that no bucket holds.
const fn lower_edge_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match (bucket / STEPS).checked_sub(1) {
        None => bucket,
        Some(shift) => (STEPS + bucket % STEPS) << shift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_contiguous_and_never_wider_than_an_eighth() {
        for bucket in 0..BUCKETS {
            let (low, high) = (lower_edge_us(bucket), lower_edge_us(bucket + 1));
            assert!(low < high);
            assert_eq!(bucket_of(low), bucket);
            assert_eq!(bucket_of(high - 1), bucket);
            assert!((high - low - 1) * 8 <= low, "bucket {bucket} is {low}..{high}");
        }
        assert_eq!(lower_edge_us(BUCKETS), VALUE_US_MAX + 1);
        const { assert!(VALUE_US_MAX >= 137_000_000) };
    }

    #[test]
    fn exported_edges_rise_and_are_edges_of_buckets() {
        assert!(EXPORTED_EDGES_US.is_sorted_by(|a, b| a < b));
        for edge in EXPORTED_EDGES_US {
            assert_eq!(lower_edge_us(bucket_of(edge)), edge);
        }
    }

    #[test]
    fn memory_stays_within_its_bound() {
        assert!(size_of::<Histogram>() <= 2560, "{}", size_of::<Histogram>());
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        let empty = Histogram::new().snapshot();
        assert_eq!((empty.count(), empty.sum_us(), empty.quantile(0.99)), (0, 0, 0));
    }

    #[test]
    fn values_beyond_the_range_are_kept_as_the_largest() {
        let histogram = Histogram::new();
        histogram.record(u64::MAX);
        histogram.record(VALUE_US_MAX + 1);
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 2);
        assert_eq!(snapshot.quantile(1.0), VALUE_US_MAX);
        assert_eq!(snapshot.sum_us(), 2 * VALUE_US_MAX);
        assert_eq!(snapshot.count_below(1 << 26), 0);
        assert_eq!(snapshot.count_below(u64::MAX), 2);
    }

    #[test]
    fn quantiles_outside_their_range_count_as_the_nearest_end() {
        let histogram = Histogram::new();
        for us in [3, 5, 9] {
            histogram.record(us);
        }
        let snapshot = histogram.snapshot();
        for (quantile, us) in [(-1.0, 3), (0.0, 3), (f64::NAN, 3), (1.0, 9), (7.0, 9)] {
            assert_eq!(snapshot.quantile(quantile), us, "{quantile}");
        }
    }

    #[test]
    fn a_batch_is_the_same_as_its_samples_one_by_one() {
        let (batch, single) = (Histogram::new(), Histogram::new());
        batch.record_many(77, 5);
        (0..5).for_each(|_| single.record(77));
        assert_eq!(batch.snapshot(), single.snapshot());
    }

    /// Values spread over all magnitudes, as latencies are, up to beyond the range.
    fn latencies() -> impl Strategy<Value = Vec<u64>> {
        let latency = (0u32..30, any::<u64>()).prop_map(|(bits, noise)| noise >> (63 - bits));
        proptest::collection::vec(latency, 1..300)
    }

    fn recorded(values: &[u64]) -> Snapshot {
        let histogram = Histogram::new();
        values.iter().for_each(|us| histogram.record(*us));
        histogram.snapshot()
    }

    proptest! {
        #[test]
        fn quantiles_agree_with_a_sorted_vector(values in latencies(), quantile in 0.0..=1.0f64) {
            let mut sorted: Vec<u64> = values.iter().map(|us| *us.min(&VALUE_US_MAX)).collect();
            sorted.sort_unstable();
            let rank = ((quantile * sorted.len() as f64).ceil() as usize).max(1);
            let exact = sorted[rank - 1];
            let answer = recorded(&values).quantile(quantile);
            prop_assert!(answer >= exact, "{answer} < {exact}");
            prop_assert!((answer - exact) * 8 <= exact, "{answer} is too far above {exact}");
        }

        #[test]
        fn exported_counts_agree_with_the_values(values in latencies()) {
            let snapshot = recorded(&values);
            for edge in EXPORTED_EDGES_US {
                let exact = values.iter().filter(|us| **us < edge).count() as u64;
                prop_assert_eq!(snapshot.count_below(edge), exact);
            }
            prop_assert_eq!(snapshot.count(), values.len() as u64);
            let sum: u64 = values.iter().map(|us| *us.min(&VALUE_US_MAX)).sum();
            prop_assert_eq!(snapshot.sum_us(), sum);
        }

        #[test]
        fn merging_is_the_same_as_recording_together(a in latencies(), b in latencies()) {
            let mut merged = recorded(&a);
            merged.merge(&recorded(&b));
            let together: Vec<u64> = a.into_iter().chain(b).collect();
            prop_assert_eq!(merged, recorded(&together));
        }
    }
}
