//! The recent items of a partition, by room and offset.
