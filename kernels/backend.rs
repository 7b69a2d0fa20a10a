//! Which instructions a batch runs on: chosen once at run time, handed in as an argument.

/// A back end that this CPU can run; made only after the CPU was asked.
///
/// All kernels take it by value and branch on it once for a whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(pub(crate) Instructions);

/// The instruction sets, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Backend {
    /// The meaning of every kernel; runs anywhere.
    pub const PORTABLE: Self = Self(Instructions::Portable);

    /// 256-bit vectors; `None` unless the CPU has AVX2.
    #[must_use]
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") {
            return Some(Self(Instructions::Avx2));
        }
        None
    }

    /// 512-bit vectors; `None` unless the CPU has AVX-512 F and BW.
    #[must_use]
    pub fn avx512() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw") {
            return Some(Self(Instructions::Avx512));
        }
        None
    }

    /// The widest that this CPU has.
    #[must_use]
    pub fn best() -> Self {
        Self::avx512().or_else(Self::avx2).unwrap_or(Self::PORTABLE)
    }

    /// The back end of this [name](Self::name); `None` if there is none or the CPU lacks it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let known = [Some(Self::PORTABLE), Self::avx2(), Self::avx512()];
        known.into_iter().flatten().find(|backend| backend.name() == name)
    }

    /// `portable`, `avx2` or `avx512`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Instructions::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "avx512",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_is_found_by_its_name_and_the_best_is_one_of_them() {
        for backend in [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()] {
            let Some(backend) = backend else { continue };
            assert_eq!(Backend::named(backend.name()), Some(backend));
            assert!(backend.0 <= Backend::best().0, "nothing is wider than the best");
        }
        assert_eq!(Backend::named("neon"), None);
    }
}
