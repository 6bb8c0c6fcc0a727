//! What is said and heard on a tracked connection, without I/O.
