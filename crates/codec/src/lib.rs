//! The compressions of binary caches, as streams with bounded memory.
//!
//! Both ends of a cache need them: who reads one and writes to it, and who serves one; and the two ends of
//! a connection between two drovers. Only slices
//! and `std::io` traits; nothing here opens anything.

mod decode;
mod encode;
mod packed;
mod whole;

pub use decode::{decoder, read_full};
pub use encode::Encoder;
pub use packed::{MAX_CHUNK, PackedError, Packer, Unpacked, WORTH_A_CHUNK, unpack};
pub use whole::{WholeEncoder, decode_whole};
