//! How partial sums, far points and centroids travel between executors and the fit: little-endian, sums as
//! `(feature, value)` pairs of the non-zeros. A reader checks every length before it allocates.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use covey_udfs::kmeans::{
    CLUSTERS_MAX, COORDINATES_MAX, Centroids, ClusterSum, Drawn, Drift, FarPoint, Moments, OVERSAMPLING, Partial,
};
use covey_udfs::matrix::{Density, FEATURES_MAX, Rows};
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::error::Result;

use crate::external;

/// First bytes of each message: a name and a version.
const PARTIAL: u32 = u32::from_le_bytes(*b"CVp2");
const MOMENTS: u32 = u32::from_le_bytes(*b"CVm1");
const CENTROIDS: u32 = u32::from_le_bytes(*b"CVc2");
const FAR_POINTS: u32 = u32::from_le_bytes(*b"CVf2");

/// Says that a centre comes with all of its values.
const ALL_FEATURES: u32 = u32::MAX;

/// Most clusters or rows of a message: a round of k-means|| draws as many.
const ENTRIES_MAX: usize = OVERSAMPLING * CLUSTERS_MAX;

const VALUE_BYTES: usize = size_of::<f64>();
const PAIR_BYTES: usize = size_of::<u32>() + VALUE_BYTES;

pub fn encode_partial(n_features: usize, partial: &Partial) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(PARTIAL);
    out.put_u32_le(partial.n_clusters() as u32);
    out.put_u32_le(n_features as u32);
    out.put_u64_le(partial.n_points);
    out.put_u64_le(partial.n_moved);
    out.put_u64_le(partial.n_skipped);
    partial.changes.iter().for_each(|change| put_sum(&mut out, change));
    out.freeze()
}

pub fn decode_partial(bytes: &[u8]) -> Result<Partial> {
    let mut input = Reader { bytes, what: "a partial sum" };
    let (n_clusters, n_features) = input.header(PARTIAL)?;
    let (n_points, n_moved, n_skipped) = (input.u64()?, input.u64()?, input.u64()?);
    let changes = (0..n_clusters).map(|_| input.sum(n_features)).collect::<Result<_>>()?;
    input.end()?;
    Ok(Partial { changes, n_points, n_moved, n_skipped })
}

pub fn encode_moments(n_features: usize, moments: &Moments) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(MOMENTS);
    out.put_u32_le(1);
    out.put_u32_le(n_features as u32);
    out.put_u64_le(moments.n_points);
    out.put_i128_le(moments.squares);
    put_sum(&mut out, &moments.sum);
    out.freeze()
}

pub fn decode_moments(bytes: &[u8]) -> Result<Moments> {
    let mut input = Reader { bytes, what: "moments of rows" };
    let (_, n_features) = input.header(MOMENTS)?;
    let (n_points, squares) = (input.u64()?, input.i128()?);
    let sum = input.sum(n_features)?;
    input.end()?;
    Ok(Moments { sum, squares, n_points })
}

fn put_sum(out: &mut BytesMut, sum: &ClusterSum) {
    out.put_i64_le(sum.weight);
    out.put_u32_le(sum.features().len() as u32);
    sum.features().iter().for_each(|feature| out.put_u32_le(*feature));
    sum.sums().iter().for_each(|sum| out.put_i128_le(*sum));
}

/// Each centre as the `(feature, value)` pairs of its non-zeros, or as all values where that is shorter.
pub fn encode_centroids(centroids: &Centroids) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(CENTROIDS);
    out.put_u32_le(centroids.n_clusters() as u32);
    out.put_u32_le(centroids.n_features() as u32);
    for cluster in 0..centroids.n_clusters() {
        let (centre, stored) = (centroids.centre(cluster), centroids.non_zeros(cluster));
        if stored.len() * PAIR_BYTES < centre.len() * VALUE_BYTES {
            out.put_u32_le(stored.len() as u32);
            stored.iter().for_each(|feature| out.put_u32_le(*feature));
            stored.iter().for_each(|feature| out.put_f64_le(centre[*feature as usize]));
        } else {
            out.put_u32_le(ALL_FEATURES);
            centre.iter().for_each(|value| out.put_f64_le(*value));
        }
    }
    out.freeze()
}

pub fn decode_centroids(bytes: &[u8]) -> Result<Centroids> {
    let mut input = Reader { bytes, what: "a set of centroids" };
    let (n_clusters, n_features) = input.header(CENTROIDS)?;
    if n_clusters * n_features > COORDINATES_MAX {
        return exec_err!("{n_clusters} centres of {n_features} features are beyond the limit of {COORDINATES_MAX}");
    }
    let centres = (0..n_clusters).map(|_| input.centre(n_features)).collect::<Result<_>>()?;
    input.end()?;
    Centroids::from_centres(n_features, centres).map_err(external)
}

pub fn encode_far_points(n_features: usize, points: &[FarPoint]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(FAR_POINTS);
    out.put_u32_le(points.len() as u32);
    out.put_u32_le(n_features as u32);
    for point in points {
        let row = point.row.row(0);
        out.put_f64_le(point.squared_distance);
        out.put_u128_le(point.content_hash);
        out.put_u32_le(point.cluster as u32);
        out.put_u64_le(point.weight);
        out.put_u8(u8::from(row.density == Density::Dense));
        out.put_u32_le(row.indices.len() as u32);
        for (feature, value) in row.iter() {
            out.put_u32_le(feature as u32);
            out.put_f64_le(value);
        }
    }
    out.freeze()
}

pub fn decode_far_points(bytes: &[u8]) -> Result<Vec<FarPoint>> {
    let mut input = Reader { bytes, what: "a list of far points" };
    let (n_points, n_features) = input.header(FAR_POINTS)?;
    let mut points = vec![];
    for _ in 0..n_points {
        let (squared_distance, content_hash) = (input.f64()?, input.u128()?);
        let (cluster, weight) = (input.u32()? as usize, input.u64()?);
        let density = if input.u8()? == 0 { Density::Sparse } else { Density::Dense };
        let row = (0..input.u32()?).map(|_| Ok((input.u32()?, input.f64()?))).collect::<Result<Vec<_>>>()?;
        let (indices, values): (Vec<u32>, Vec<f64>) = row.into_iter().unzip();
        let offsets = vec![0, indices.len()];
        let row = Rows::try_from_parts(density, n_features, offsets, indices, values).map_err(external)?;
        points.push(FarPoint { squared_distance, content_hash, cluster, weight, row });
    }
    input.end()?;
    Ok(points)
}

/// Rows that were drawn travel as far points do; their keys are numbers in the same place.
pub fn encode_drawn(n_features: usize, drawn: Vec<Drawn>) -> Bytes {
    let point = |drawn: Drawn| FarPoint {
        squared_distance: f64::from_bits(drawn.key),
        content_hash: drawn.content_hash,
        cluster: 0,
        weight: drawn.weight,
        row: drawn.row,
    };
    encode_far_points(n_features, &drawn.into_iter().map(point).collect::<Vec<_>>())
}

pub fn decode_drawn(bytes: &[u8]) -> Result<Vec<Drawn>> {
    let drawn = |point: FarPoint| Drawn {
        key: point.squared_distance.to_bits(),
        content_hash: point.content_hash,
        weight: point.weight,
        row: point.row,
    };
    Ok(decode_far_points(bytes)?.into_iter().map(drawn).collect())
}

/// One sum for each cluster.
pub fn encode_distances(distances: &[i128]) -> Bytes {
    let mut out = BytesMut::new();
    distances.iter().for_each(|distance| out.put_i128_le(*distance));
    out.freeze()
}

pub fn decode_distances(bytes: &[u8], n_clusters: usize) -> Result<Vec<i128>> {
    numbers(bytes, "sums of distances", n_clusters, Reader::i128)
}

/// How far centres have moved.
pub fn encode_drift(drift: &Drift) -> Bytes {
    let mut out = BytesMut::new();
    drift.values().into_iter().for_each(|way| out.put_f64_le(way));
    out.freeze()
}

pub fn decode_drift(bytes: &[u8], n_clusters: usize) -> Result<Drift> {
    let ways = numbers(bytes, "a drift of centres", n_clusters + 1, Reader::f64)?;
    Drift::of_values(ways).ok_or_else(|| exec_datafusion_err!("a drift of centres is empty"))
}

/// One weight for each candidate.
pub fn encode_weights(weights: &[u64]) -> Bytes {
    let mut out = BytesMut::new();
    weights.iter().for_each(|weight| out.put_u64_le(*weight));
    out.freeze()
}

pub fn decode_weights(bytes: &[u8], n: usize) -> Result<Vec<u64>> {
    numbers(bytes, "weights of candidates", n, Reader::u64)
}

/// A message that is `n` numbers and nothing else.
fn numbers<'a, T>(
    bytes: &'a [u8],
    what: &'static str,
    n: usize,
    read: impl Fn(&mut Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut input = Reader { bytes, what };
    let numbers = (0..n).map(|_| read(&mut input)).collect::<Result<_>>()?;
    input.end()?;
    Ok(numbers)
}

/// Reads numbers, with an error where the bytes end too early.
struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl Reader<'_> {
    fn need(&self, n: usize) -> Result<()> {
        if self.bytes.len() < n {
            return exec_err!("{} ends after {} bytes where {n} more were expected", self.what, self.bytes.len());
        }
        Ok(())
    }

    /// The magic number, then a count of clusters or points and one of features, both within their limits.
    fn header(&mut self, magic: u32) -> Result<(usize, usize)> {
        if self.u32()? != magic {
            return exec_err!("{} begins with the wrong bytes: do all processes run one version of covey?", self.what);
        }
        let (n, n_features) = (self.u32()? as usize, self.u32()? as usize);
        if n > ENTRIES_MAX || n_features > FEATURES_MAX {
            return exec_err!("{} claims {n} entries of {n_features} features", self.what);
        }
        Ok((n, n_features))
    }

    fn sum(&mut self, n_features: usize) -> Result<ClusterSum> {
        let (weight, n_sums) = (self.u64()? as i64, self.u32()?);
        let features = self.features(n_sums, n_features)?;
        self.need(size_of::<i128>() * features.len())?;
        let sums = features.iter().map(|_| self.i128()).collect::<Result<_>>()?;
        Ok(ClusterSum::from_parts(weight, features, sums))
    }

    fn centre(&mut self, n_features: usize) -> Result<Vec<f64>> {
        match self.u32()? {
            ALL_FEATURES => {
                self.need(VALUE_BYTES * n_features)?;
                (0..n_features).map(|_| self.f64()).collect()
            }
            n_stored => {
                let mut centre = vec![0.0; n_features];
                for feature in self.features(n_stored, n_features)? {
                    centre[feature as usize] = self.f64()?;
                }
                Ok(centre)
            }
        }
    }

    /// Ascending features below `n_features`.
    fn features(&mut self, n: u32, n_features: usize) -> Result<Vec<u32>> {
        self.need(size_of::<u32>() * n as usize)?;
        let features = (0..n).map(|_| self.u32()).collect::<Result<Vec<_>>>()?;
        let in_range = features.last().is_none_or(|last| (*last as usize) < n_features);
        if !(in_range && features.windows(2).all(|pair| pair[0] < pair[1])) {
            return exec_err!("{} names features that do not ascend below {n_features}", self.what);
        }
        Ok(features)
    }

    fn u8(&mut self) -> Result<u8> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    fn u32(&mut self) -> Result<u32> {
        self.need(4)?;
        Ok(self.bytes.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64> {
        self.need(8)?;
        Ok(self.bytes.get_u64_le())
    }

    fn f64(&mut self) -> Result<f64> {
        self.need(8)?;
        Ok(self.bytes.get_f64_le())
    }

    fn u128(&mut self) -> Result<u128> {
        self.need(16)?;
        Ok(self.bytes.get_u128_le())
    }

    fn i128(&mut self) -> Result<i128> {
        self.need(16)?;
        Ok(self.bytes.get_i128_le())
    }

    fn end(&self) -> Result<()> {
        if !self.bytes.is_empty() {
            return exec_err!("{} has {} bytes too many", self.what, self.bytes.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what arrives is what was sent, and a message cut anywhere is an error, not a panic.
    #[test]
    fn messages_survive_the_wire_or_fail() {
        let sum = ClusterSum::from_parts(-7, vec![1, 3], vec![-(1 << 100), 0]);
        let partial = Partial {
            changes: vec![ClusterSum::default(), sum.clone(), sum.clone()],
            n_points: 9,
            n_moved: 2,
            n_skipped: 1,
        };
        let bytes = encode_partial(4, &partial);
        assert_eq!(decode_partial(&bytes).unwrap(), partial);
        assert!(decode_partial(&encode_partial(3, &partial)).is_err(), "a feature beyond the last");

        let moments = Moments { sum, squares: 1 << 90, n_points: 9 };
        assert_eq!(decode_moments(&encode_moments(4, &moments)).unwrap(), moments);

        let sparse = [0.0, 0.0, 0.0, 0.5, 0.0];
        let centroids = Centroids::try_new(5, [sparse, [0.5, -1.0, 3.0, -0.0, 1.0]].concat()).unwrap();
        let centroid_bytes = encode_centroids(&centroids);
        let back = decode_centroids(&centroid_bytes).unwrap();
        let bits = |centroids: &Centroids| centroids.values().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&centroids));

        let (mut sparse, mut dense) = (Rows::new(Density::Sparse, 4), Rows::new(Density::Dense, 4));
        sparse.push([(1, 0.5)]).unwrap();
        dense.push((0..).zip([0.0, 1.0, 0.0, -2.0])).unwrap();
        let far: Vec<FarPoint> = [sparse, dense]
            .into_iter()
            .map(|row| FarPoint { squared_distance: 0.25, content_hash: 1 << 99, cluster: 2, weight: 8, row })
            .collect();
        let far_bytes = encode_far_points(4, &far);
        assert_eq!(decode_far_points(&far_bytes).unwrap(), far);

        let drawn = |row: &FarPoint| Drawn { key: 7 << 52, content_hash: 5, weight: 3, row: row.row.clone() };
        let drawn: Vec<Drawn> = far.iter().map(drawn).collect();
        assert_eq!(decode_drawn(&encode_drawn(4, drawn.clone())).unwrap(), drawn);
        let distances = [1 << 99, -3, 0];
        assert_eq!(decode_distances(&encode_distances(&distances), 3).unwrap(), distances);
        assert!(decode_distances(&encode_distances(&distances), 2).is_err());
        let ways = [0.5, 2.0, 3.0];
        let drift = encode_drift(&Drift::of_values(ways.to_vec()).unwrap());
        assert_eq!(decode_drift(&drift, 2).unwrap().values(), ways);
        assert!(decode_drift(&drift, 3).is_err());
        let weights = [7, u64::MAX];
        assert_eq!(decode_weights(&encode_weights(&weights), 2).unwrap(), weights);
        assert!(decode_weights(&encode_weights(&weights), 3).is_err());

        for cut in 0..bytes.len() {
            assert!(decode_partial(&bytes[..cut]).is_err());
        }
        for cut in 0..far_bytes.len() {
            assert!(decode_far_points(&far_bytes[..cut]).is_err());
        }
        for cut in 0..centroid_bytes.len() {
            assert!(decode_centroids(&centroid_bytes[..cut]).is_err());
        }
        assert!(decode_centroids(&bytes).is_err());
    }
}
