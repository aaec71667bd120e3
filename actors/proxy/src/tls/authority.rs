//! The sandbox's certificate authority: an ECDSA P-256 key and its self-signed certificate.
//!
//! Made once per sandbox and kept by the heart in sealed memory, so that a restarted supervisor serves under
//! the authority that the agents already trust. The key never enters the sandbox and never touches a disk.
//!
//! The certificate carries no name constraints. What it could be constrained to is the set of hosts that the
//! policy allows, and that changes while the agents run; nobody but the sandbox trusts it, and what it
//! vouches for there has passed the policy already. It may sign leaves alone (path length 0).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::leaf::Leaves;
use super::provider;

/// How long the authority is valid: longer than any sandbox runs without a restart of its heart, short enough
/// that a forgotten copy in some trust store ends by itself.
pub const CA_LIFETIME: Duration = Duration::from_secs(2 * 365 * 86_400);
/// The certificate is valid from this long ago, for clocks that are set back after a start.
const BACKDATED: Duration = Duration::from_secs(86_400);
/// Marks the layout of the sealed bytes.
const SEALED_VERSION: u8 = 1;
/// Bytes of a serial number: 128 bits, where RFC 5280 allows 20 bytes and the CA/Browser Forum asks for 64
/// random bits.
const SERIAL_BYTES: usize = 16;
/// Most bytes of the key or the certificate in the sealed form; both have some hundreds.
const MAX_PART: usize = 4096;

/// Why there is no authority or no leaf.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Key or certificate could not be made.
    #[error("a certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls refused what we made.
    #[error("a TLS configuration can't be made: {0}")]
    Tls(#[from] rustls::Error),
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// The sealed bytes are not an authority.
    #[error("the sealed authority can't be read: {0}")]
    Sealed(&'static str),
    /// [`CA_LIFETIME`] is over.
    #[error("the sandbox's authority has expired; restart the sandbox to make a new one")]
    Expired,
}

/// The sandbox's authority, with its cache of leaves. Share it in an `Arc`.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    /// Unix seconds.
    not_before: u64,
    serial: [u8; SERIAL_BYTES],
    pub(super) leaves: Leaves,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// When key, certificate or random bytes can't be had.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let not_before = unix_now().saturating_sub(BACKDATED.as_secs());
        let serial = random_serial()?;
        let params = params(not_before, serial);
        let certificate = params.self_signed(&key)?;
        Self::assemble(key, not_before, serial, certificate.der().clone())
    }

    fn assemble(
        key: KeyPair,
        not_before: u64,
        serial: [u8; SERIAL_BYTES],
        certificate: CertificateDer<'static>,
    ) -> Result<Self, AuthorityError> {
        Ok(Self {
            issuer: Issuer::new(params(not_before, serial), key),
            certificate_pem: pem(&certificate),
            certificate,
            not_before,
            serial,
            leaves: Leaves::new()?,
        })
    }

    /// Everything that [`Self::from_sealed_bytes`] needs, the private key in clear: for sealed memory only.
    #[must_use]
    pub fn to_sealed_bytes(&self) -> Zeroizing<Vec<u8>> {
        let key = self.issuer.key().serialized_der();
        let mut out = Zeroizing::new(Vec::with_capacity(64 + key.len() + self.certificate.len()));
        out.push(SEALED_VERSION);
        out.extend(self.not_before.to_be_bytes());
        out.extend(self.serial);
        for part in [key, self.certificate.as_ref()] {
            out.extend((part.len() as u64).to_be_bytes());
            out.extend(part);
        }
        out
    }

    /// The authority that [`Self::to_sealed_bytes`] wrote down.
    ///
    /// # Errors
    /// When the bytes are of another version, cut off, or don't belong together.
    pub fn from_sealed_bytes(bytes: &[u8]) -> Result<Self, AuthorityError> {
        let mut rest = bytes;
        if take::<1>(&mut rest)? != [SEALED_VERSION] {
            return Err(AuthorityError::Sealed("it is of another version"));
        }
        let not_before = u64::from_be_bytes(take(&mut rest)?);
        let serial = take(&mut rest)?;
        let key = PrivatePkcs8KeyDer::from(take_part(&mut rest)?);
        let certificate = take_part(&mut rest)?;
        if !rest.is_empty() {
            return Err(AuthorityError::Sealed("there is something after its end"));
        }
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)?;
        let public = key.public_key_raw();
        if !certificate.windows(public.len()).any(|window| window == public) {
            return Err(AuthorityError::Sealed("key and certificate don't belong together"));
        }
        Self::assemble(key, not_before, serial, CertificateDer::from(certificate.to_vec()))
    }

    /// The authority's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// When the authority ends, in Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_before.saturating_add(CA_LIFETIME.as_secs())
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

/// The same parameters for the same inputs: the issuer of the leaves is rebuilt from them, without parsing
/// the certificate.
fn params(not_before: u64, serial: [u8; SERIAL_BYTES]) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "cofferdam");
    // Part of the serial in the name keeps the authorities of two sandboxes apart in any trust store.
    let [a, b, c, d, ..] = serial;
    name.push(DnType::CommonName, format!("cofferdam sandbox {}", hex::encode([a, b, c, d])));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_before);
    params.not_after = params.not_before + CA_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A random, positive serial number of full length.
pub(super) fn random_serial() -> Result<[u8; SERIAL_BYTES], AuthorityError> {
    let mut serial = [0; SERIAL_BYTES];
    provider().secure_random.fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // DER integers are signed; and a leading zero byte would be dropped.
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(serial)
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The certificate as text (RFC 7468): base64 in lines of 64 characters.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (n, character) in STANDARD.encode(certificate).chars().enumerate() {
        if n > 0 && n % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], AuthorityError> {
    let (head, tail) = rest.split_first_chunk().ok_or(AuthorityError::Sealed("it is cut off"))?;
    *rest = tail;
    Ok(*head)
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], AuthorityError> {
    let length = usize::try_from(u64::from_be_bytes(take(rest)?)).unwrap_or(usize::MAX);
    if length > MAX_PART {
        return Err(AuthorityError::Sealed("a part is too long"));
    }
    let (part, tail) = rest.split_at_checked(length).ok_or(AuthorityError::Sealed("it is cut off"))?;
    *rest = tail;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn sealed_and_opened_it_is_the_same_authority() {
        let made = Authority::generate().unwrap();
        let opened = Authority::from_sealed_bytes(&made.to_sealed_bytes()).unwrap();
        assert_eq!(opened.certificate(), made.certificate());
        assert_eq!(opened.not_after(), made.not_after());
        assert_eq!(opened.to_sealed_bytes(), made.to_sealed_bytes());
    }

    #[test]
    fn two_authorities_differ_in_key_and_serial() {
        let (a, b) = (Authority::generate().unwrap(), Authority::generate().unwrap());
        assert_ne!(a.serial, b.serial);
        assert_ne!(a.issuer.key().public_key_raw(), b.issuer.key().public_key_raw());
        assert!(a.serial[0] & 0x80 == 0 && a.serial[0] != 0);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let made = Authority::generate().unwrap();
        let bytes = made.to_sealed_bytes();
        for cut in 0..bytes.len() {
            assert!(Authority::from_sealed_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(matches!(Authority::from_sealed_bytes(&longer), Err(AuthorityError::Sealed(_))));
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert!(matches!(Authority::from_sealed_bytes(&other), Err(AuthorityError::Sealed(_))));
        // One authority's key with another's certificate.
        let stranger = Authority::generate().unwrap();
        let mixed = Authority::assemble(
            KeyPair::from_pkcs8_der_and_sign_algo(
                &PrivatePkcs8KeyDer::from(made.issuer.key().serialized_der()),
                &PKCS_ECDSA_P256_SHA256,
            )
            .unwrap(),
            made.not_before,
            made.serial,
            stranger.certificate.clone(),
        );
        let mixed = mixed.unwrap().to_sealed_bytes();
        assert!(matches!(Authority::from_sealed_bytes(&mixed), Err(AuthorityError::Sealed(_))));
    }

    #[test]
    fn the_pem_reads_back() {
        let made = Authority::generate().unwrap();
        let read = CertificateDer::from_pem_slice(made.certificate_pem().as_bytes()).unwrap();
        assert_eq!(&read, made.certificate());
        assert!(made.certificate_pem().lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn the_key_is_not_in_the_debug_form() {
        let made = Authority::generate().unwrap();
        assert!(format!("{made:?}").len() < 60);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Authority::from_sealed_bytes(&bytes).is_err());
        }
    }
}
