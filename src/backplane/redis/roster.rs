//! Who is in which room on the other instances; kicks.
