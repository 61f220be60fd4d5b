//! What a store and a builder are
