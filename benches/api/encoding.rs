//! How objects travel: JSON, or protobuf for those kinds that have it.

use serde_json::Value;

pub const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    pub fn of_environment() -> Encoding {
        match std::env::var("SAMPAN_BENCH_ENCODING").as_deref() {
            Err(_) | Ok("json") => Encoding::Json,
            Ok("protobuf") => Encoding::Protobuf,
            Ok(other) => panic!("SAMPAN_BENCH_ENCODING is json or protobuf, not {other}"),
        }
    }

    pub fn media(self) -> &'static str {
        match self {
            Encoding::Json => JSON,
            Encoding::Protobuf => PROTOBUF,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Encoding::Json => "JSON",
            Encoding::Protobuf => "protobuf",
        }
    }

    /// An object as it is sent.
    pub fn body(self, object: &Value) -> Vec<u8> {
        let json = object.to_string().into_bytes();
        if self == Encoding::Json {
            return json;
        }
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let kind = api::protobuf::Kind::of(text("apiVersion"), text("kind")).expect("a kind with a protobuf form");
        kind.encode(text("apiVersion"), text("kind"), &json).expect("an object of its kind").into()
    }

    /// The length of the event that a watch's bytes begin with, once it is there in full.
    pub fn event(self, read: &[u8]) -> Option<usize> {
        match self {
            Encoding::Json => memchr::memchr(b'\n', read).map(|end| end + 1),
            Encoding::Protobuf => {
                let length = u32::from_be_bytes(*read.first_chunk::<4>()?) as usize + 4;
                (read.len() >= length).then_some(length)
            }
        }
    }
}
