//! Carries out what the scheduler decides
