//! How partial sums, far points and centroids travel between executors and the fit: little-endian, sums as
//! `(feature, value)` pairs of the non-zeros. A reader checks every length before it allocates.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use covey_udfs::kmeans::{CLUSTERS_MAX, Centroids, FarPoint, Partial};
use covey_udfs::matrix::{Density, FEATURES_MAX, Rows};
use datafusion::common::exec_err;
use datafusion::error::Result;

use crate::external;

/// First bytes of each message: a name and a version.
const PARTIAL: u32 = u32::from_le_bytes(*b"CVp1");
const CENTROIDS: u32 = u32::from_le_bytes(*b"CVc1");
const FAR_POINTS: u32 = u32::from_le_bytes(*b"CVf2");

pub fn encode_partial(partial: &Partial) -> Bytes {
    let n_features = partial.n_features();
    let mut out = BytesMut::new();
    out.put_u32_le(PARTIAL);
    out.put_u32_le(partial.n_clusters() as u32);
    out.put_u32_le(n_features as u32);
    out.put_u64_le(partial.n_points);
    out.put_i128_le(partial.inertia);
    for (cluster, weight) in partial.weights.iter().enumerate() {
        let sums = &partial.sums[cluster * n_features..(cluster + 1) * n_features];
        out.put_u64_le(*weight);
        out.put_u32_le(sums.iter().filter(|sum| **sum != 0).count() as u32);
        for (feature, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum != 0) {
            out.put_u32_le(feature as u32);
            out.put_i128_le(*sum);
        }
    }
    out.freeze()
}

pub fn decode_partial(bytes: &[u8]) -> Result<Partial> {
    let mut input = Reader { bytes, what: "a partial sum" };
    let (n_clusters, n_features) = input.header(PARTIAL)?;
    let mut partial = Partial::zeros(n_clusters, n_features);
    partial.n_points = input.u64()?;
    partial.inertia = input.i128()?;
    for cluster in 0..n_clusters {
        partial.weights[cluster] = input.u64()?;
        for _ in 0..input.u32()? {
            let feature = input.u32()? as usize;
            if feature >= n_features {
                return exec_err!("a partial sum names feature {feature} of {n_features}");
            }
            partial.sums[cluster * n_features + feature] = input.i128()?;
        }
    }
    input.end()?;
    Ok(partial)
}

pub fn encode_centroids(centroids: &Centroids) -> Bytes {
    let mut out = BytesMut::with_capacity(12 + 8 * centroids.values().len());
    out.put_u32_le(CENTROIDS);
    out.put_u32_le(centroids.n_clusters() as u32);
    out.put_u32_le(centroids.n_features() as u32);
    centroids.values().iter().for_each(|value| out.put_f64_le(*value));
    out.freeze()
}

pub fn decode_centroids(bytes: &[u8]) -> Result<Centroids> {
    let mut input = Reader { bytes, what: "a set of centroids" };
    let (n_clusters, n_features) = input.header(CENTROIDS)?;
    input.need(8 * n_clusters * n_features)?;
    let values = (0..n_clusters * n_features).map(|_| input.f64()).collect::<Result<_>>()?;
    input.end()?;
    Centroids::try_new(n_features, values).map_err(external)
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
        if n > CLUSTERS_MAX || n_features > FEATURES_MAX {
            return exec_err!("{} claims {n} entries of {n_features} features", self.what);
        }
        Ok((n, n_features))
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
        let mut partial = Partial::zeros(3, 4);
        partial.sums[5] = -(1 << 100);
        partial.weights[1] = 7;
        partial.inertia = 1 << 90;
        partial.n_points = 9;
        let bytes = encode_partial(&partial);
        assert_eq!(decode_partial(&bytes).unwrap(), partial);

        let centroids = Centroids::try_new(2, vec![0.5, -1.0, 3.0, 0.0]).unwrap();
        assert_eq!(decode_centroids(&encode_centroids(&centroids)).unwrap(), centroids);

        let (mut sparse, mut dense) = (Rows::new(Density::Sparse, 4), Rows::new(Density::Dense, 4));
        sparse.push([(1, 0.5)]).unwrap();
        dense.push((0..).zip([0.0, 1.0, 0.0, -2.0])).unwrap();
        let far: Vec<FarPoint> = [sparse, dense]
            .into_iter()
            .map(|row| FarPoint { squared_distance: 0.25, content_hash: 1 << 99, cluster: 2, weight: 8, row })
            .collect();
        let far_bytes = encode_far_points(4, &far);
        assert_eq!(decode_far_points(&far_bytes).unwrap(), far);

        for cut in 0..bytes.len() {
            assert!(decode_partial(&bytes[..cut]).is_err());
        }
        for cut in 0..far_bytes.len() {
            assert!(decode_far_points(&far_bytes[..cut]).is_err());
        }
        assert!(decode_centroids(&bytes).is_err());
    }
}
