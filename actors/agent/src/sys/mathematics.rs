//! Defines `exp` and `pow` in the program itself, so that `libm.so` needn't be loaded for them: that takes a
//! tenth of a millisecond for each execution, and a start executes the program twice.
//!
//! Only estimates call them: how fast a name server answers, how long the runtime's tasks take. The code is
//! the Rust project's own (`libm`), right to the last place but one. Using more functions of `libm.so` would
//! load it again, which only costs time.

/// exp(3).
// SAFETY: the name is the C library's, and so are the signature and what comes of it.
#[unsafe(no_mangle)]
extern "C" fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// pow(3).
// SAFETY: as `exp`.
#[unsafe(no_mangle)]
extern "C" fn pow(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_are_what_they_are_named_for() {
        let near = |a: f64, b: f64| assert!((a - b).abs() <= b.abs() * 1e-15, "{a} is not {b}");
        near(super::exp(-0.5), 0.606_530_659_712_633_4);
        near(super::pow(0.9, 6.0), 0.531_441);
        // What the standard library calls is the same.
        near(2.5_f64.exp(), super::exp(2.5));
        near(2.5_f64.powf(0.3), super::pow(2.5, 0.3));
    }
}
