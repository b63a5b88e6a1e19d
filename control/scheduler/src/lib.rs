//! FuncBuffer, RunQ, WorkerLB: which call runs next and where. Pure deciders.
