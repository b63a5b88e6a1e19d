//! Off the path: controllers that publish versioned snapshots. Pure deciders.
