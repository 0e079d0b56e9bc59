//! Which item is next; holes, repair and epochs.
