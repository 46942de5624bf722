//! How the operating system's strings are written in a document: as text where they are text, else as their bytes. For
//! serde's `with`: this module for one, [`option`], [`list`] and [`map`] for more.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One string.
struct Written<'a>(Cow<'a, OsStr>);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => text.serialize(serializer),
            None => self.0.as_bytes().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Written<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = OsString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a list of bytes")
            }

            fn visit_str<E>(self, text: &str) -> Result<OsString, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OsString, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(OsString::from_vec(bytes))
            }
        }

        deserializer.deserialize_any(Either).map(|text| Self(Cow::Owned(text)))
    }
}

impl<'a, T: AsRef<OsStr>> From<&'a T> for Written<'a> {
    fn from(text: &'a T) -> Self {
        Self(Cow::Borrowed(text.as_ref()))
    }
}

/// Writes one.
///
/// # Errors
/// The serializer's.
pub fn serialize<T: AsRef<OsStr>, S: Serializer>(text: &T, serializer: S) -> Result<S::Ok, S::Error> {
    Written::from(text).serialize(serializer)
}

/// Reads one.
///
/// # Errors
/// The deserializer's.
pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Written::deserialize(deserializer)?.0.into_owned().into())
}

/// One, or none.
pub mod option {
    use super::{Deserialize, Deserializer, OsStr, OsString, Serialize, Serializer, Written};

    /// Writes it.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(text: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        text.as_ref().map(Written::from).serialize(serializer)
    }

    /// Reads it.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<Written<'_>>::deserialize(deserializer)?.map(|text| text.0.into_owned().into()))
    }
}

/// Several.
pub mod list {
    use super::{Deserialize, Deserializer, OsStr, OsString, Serializer, Written};

    /// Writes them.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(Written::from))
    }

    /// Reads them.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        let list = Vec::<Written<'_>>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|text| text.0.into_owned().into()).collect())
    }
}

/// An environment.
pub mod map {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, OsString, Serializer, Written};

    /// Writes it, as pairs: a key may be no text.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(map: &BTreeMap<OsString, OsString>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter().map(|(name, value)| (Written::from(name), Written::from(value))))
    }

    /// Reads it.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<OsString, OsString>, D::Error> {
        let pairs = Vec::<(Written<'_>, Written<'_>)>::deserialize(deserializer)?;
        Ok(pairs.into_iter().map(|(name, value)| (name.0.into_owned(), value.0.into_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct All {
        #[serde(with = "super")]
        one: OsString,
        #[serde(with = "super::option")]
        perhaps: Option<PathBuf>,
        #[serde(with = "super::list")]
        several: Vec<OsString>,
        #[serde(with = "super::map")]
        map: BTreeMap<OsString, OsString>,
    }

    #[test]
    fn text_is_text_and_bytes_are_kept() {
        let odd = || OsString::from_vec(vec![b'a', 0xff]);
        let all = All {
            one: "plain".into(),
            perhaps: Some(odd().into()),
            several: vec!["a b".into(), odd()],
            map: [(odd(), "1".into()), ("K".into(), odd())].into(),
        };
        let text = serde_json::to_string(&all).unwrap();
        assert!(text.starts_with(r#"{"one":"plain","perhaps":[97,255],"several":["a b",[97,255]],"#), "{text}");
        assert_eq!(serde_json::from_str::<All>(&text).unwrap(), all);
    }
}
