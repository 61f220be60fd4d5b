//! The worker and serve protocols
