//! Floats in JSON, bit for bit: as the shortest text that reads back the same. JSON numbers are read by many parsers
//! with an error in the last place, which would break a checksum or let two processes compute with different numbers.
//!
//! For fields: `#[serde(with = "covey_udfs::exact")]`, `covey_udfs::exact::all` for a `Vec<f64>` and
//! `covey_udfs::exact::option` for an `Option<f64>`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")))
}

/// The same for many numbers.
pub mod all {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| format!("{value:?}")))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let parse = |text: String| text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")));
        Vec::<String>::deserialize(deserializer)?.into_iter().map(parse).collect()
    }
}

/// The same for a number that may be missing.
pub mod option {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|value| format!("{value:?}")).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        let parse = |text: String| text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")));
        Option::<String>::deserialize(deserializer)?.map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Numbers {
        #[serde(with = "super")]
        one: f64,
        #[serde(with = "super::all")]
        all: Vec<f64>,
    }

    /// Goal: every float reads back bit for bit. Method: many mantissas and exponents through JSON and back.
    #[test]
    fn every_bit_survives() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = f64::from_bits(bits);
            if value.is_finite() {
                let text = serde_json::to_string(&Numbers { one: value, all: vec![value, -0.0] }).unwrap();
                let back: Numbers = serde_json::from_str(&text).unwrap();
                assert_eq!(back.one.to_bits(), value.to_bits(), "{text}");
                assert_eq!(back.all[0].to_bits(), value.to_bits(), "{text}");
                assert_eq!(back.all[1].to_bits(), (-0.0_f64).to_bits());
            }
        }
    }
}
