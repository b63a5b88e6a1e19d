//! Simulation, conformance, properties, allocation, crash, kernel and end-to-end tests.
