//! Public keys as PEM (SubjectPublicKeyInfo, GM/T 0015-2012 with the curve's own identifier).

use sm2::elliptic_curve::sec1::ToSec1Point as _;
use sm2::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};

use crate::Error;
use crate::keys::PublicKey;

impl PublicKey {
    /// Reads the PEM text of an SM2 public key; the key is on the curve.
    ///
    /// # Errors
    /// [`Error::PublicKeyEncoding`] for any other text, that of a private key included.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let key =
            sm2::PublicKey::from_public_key_pem(text).map_err(|_| Error::PublicKeyEncoding)?;
        let point = key.to_sec1_point(false);
        let coordinates = point.as_bytes().get(1..).and_then(|bytes| bytes.try_into().ok());
        coordinates.map(Self).ok_or(Error::PublicKeyEncoding)
    }

    /// This key as a PEM text.
    ///
    /// # Errors
    /// [`Error::PublicKeyInvalid`] if it is no point of the curve.
    pub fn to_pem(&self) -> Result<String, Error> {
        let mut sec1 = [4; 65];
        sec1[1..].copy_from_slice(&self.0);
        let key = sm2::PublicKey::from_sec1_bytes(&sec1).map_err(|_| Error::PublicKeyInvalid)?;
        key.to_public_key_pem(LineEnding::LF).map_err(|_| Error::PublicKeyInvalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Signer as _, SoftwareSigner};

    #[test]
    fn pem_goes_round_and_nothing_else_is_read() {
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let pem = signer.public_key().to_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{pem}");
        assert_eq!(PublicKey::from_pem(&pem).unwrap(), *signer.public_key());
        let private = signer.to_pkcs8_pem().unwrap();
        let cut = pem[..pem.len() / 2].to_owned();
        for text in ["", "key", &private, &cut, &pem.replace("PUBLIC", "PRIVATE")] {
            assert!(matches!(PublicKey::from_pem(text), Err(Error::PublicKeyEncoding)));
        }
        assert!(matches!(PublicKey([1; 64]).to_pem(), Err(Error::PublicKeyInvalid)));
    }
}
