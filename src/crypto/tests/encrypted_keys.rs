//! Keys under a passphrase, with OpenSSL where it is there as the other program.

use std::process::{Command, Stdio};

use sm2::pkcs8::Document;

use super::*;
use crate::encrypted_key::{ITERATIONS_MAX, ITERATIONS_MIN, is_encrypted_pem};
use crate::entropy;

const PASSPHRASE: &[u8] = b"correct horse battery staple";

fn encrypted(iterations: u32) -> String {
    let signer = SoftwareSigner::from_bytes(&EXAMPLE_SECRET).unwrap();
    let mut random = Drbg::new(entropy::system(), "test").unwrap();
    signer.to_encrypted_pem(PASSPHRASE, iterations, &mut random).unwrap()
}

fn der_of(pem: &str) -> Vec<u8> {
    Document::from_pem(pem).unwrap().1.to_vec()
}

fn pem_of(der: &[u8]) -> String {
    let document = Document::try_from(der.to_vec()).unwrap();
    document.to_pem("ENCRYPTED PRIVATE KEY", sm2::pkcs8::LineEnding::LF).unwrap()
}

fn replaced(der: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let place = der.windows(from.len()).position(|bytes| bytes == from).unwrap();
    [&der[..place], to, &der[place + from.len()..]].concat()
}

#[test]
fn a_key_opens_by_its_passphrase_only() {
    let pem = encrypted(ITERATIONS_MIN);
    assert!(is_encrypted_pem(&pem) && pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    let opened = SoftwareSigner::from_encrypted_pem(&pem, PASSPHRASE).unwrap();
    assert_eq!(*opened.public_key(), EXAMPLE_KEY);
    assert_ne!(pem, encrypted(ITERATIONS_MIN), "another salt, another vector");
    for wrong in [&b""[..], b"correct horse battery stapl", b"Correct horse battery staple"] {
        let refused = SoftwareSigner::from_encrypted_pem(&pem, wrong).err();
        assert!(matches!(refused, Some(Error::Passphrase)), "{refused:?}");
    }
    let clear = SoftwareSigner::from_bytes(&EXAMPLE_SECRET).unwrap().to_pkcs8_pem().unwrap();
    for text in ["", "key", &clear, &pem[..pem.len() / 2]] {
        let refused = SoftwareSigner::from_encrypted_pem(text, PASSPHRASE).err();
        assert!(matches!(refused, Some(Error::PrivateKeyEncoding)), "{refused:?}");
    }
    assert!(SoftwareSigner::from_pkcs8_pem(&pem).is_err());
}

#[test]
fn a_hostile_file_is_refused_before_anything_is_computed() {
    let der = der_of(&encrypted(1_000_000));
    let count = |count: u32| count.to_be_bytes()[1..].to_vec();
    let million = [&[2, 3], &count(1_000_000)[..]].concat();
    let iterations =
        |to: u32| pem_of(&replaced(&der, &million, &[&[2, 3], &count(to)[..]].concat()));
    for found in [ITERATIONS_MAX + 1, 8_000_000] {
        let refused = SoftwareSigner::from_encrypted_pem(&iterations(found), PASSPHRASE).err();
        let Some(Error::EncryptedKeyIterations { found: told }) = refused else {
            panic!("{found}: {refused:?}");
        };
        assert_eq!(told, found);
    }
    let signer = SoftwareSigner::from_bytes(&EXAMPLE_SECRET).unwrap();
    let mut random = Drbg::new(entropy::system(), "test").unwrap();
    for count in [0, ITERATIONS_MIN - 1, ITERATIONS_MAX + 1] {
        assert!(signer.to_encrypted_pem(PASSPHRASE, count, &mut random).is_err(), "{count}");
    }
    // An INTEGER of many bytes is no small number.
    let huge = replaced(&der_of(&encrypted(70_000)), &[2, 3, 1, 0x11, 0x70], &[2, 3, 0x7f, 0, 1]);
    assert!(SoftwareSigner::from_encrypted_pem(&pem_of(&huge), PASSPHRASE).is_err());
}

#[test]
fn other_algorithms_are_named() {
    let der = der_of(&encrypted(ITERATIONS_MIN));
    let cases: [(&[u8], &[u8], &str); 5] = [
        (&[0xf7, 0x0d, 1, 5, 13], &[0xf7, 0x0d, 1, 5, 3], "encryption algorithm"),
        (&[0xf7, 0x0d, 1, 5, 12], &[0xf7, 0x0d, 1, 5, 11], "key derivation"),
        (&[1, 0x83, 0x11, 2], &[1, 0x83, 0x11, 3], "pseudorandom function"),
        (&[0x55, 1, 0x68, 2], &[0x55, 1, 0x68, 3], "encryption scheme"),
        (&[0x05, 0x00, 0x30], &[0x04, 0x00, 0x30], "pseudorandom function"),
    ];
    for (from, to, part) in cases {
        let changed = pem_of(&replaced(&der, from, to));
        let refused = SoftwareSigner::from_encrypted_pem(&changed, PASSPHRASE).err().unwrap();
        assert!(refused.to_string().contains(part), "{part}: {refused}");
    }
}

#[test]
fn no_flipped_bit_and_no_cut_gives_another_key() {
    let der = der_of(&encrypted(ITERATIONS_MIN));
    let mut opened_count = 0;
    for place in 0..der.len() {
        for bit in [0, 3, 7] {
            let mut flipped = der.clone();
            flipped[place] ^= 1 << bit;
            let Ok(document) = Document::try_from(flipped) else { continue };
            let pem = document.to_pem("ENCRYPTED PRIVATE KEY", sm2::pkcs8::LineEnding::LF).unwrap();
            if let Ok(signer) = SoftwareSigner::from_encrypted_pem(&pem, PASSPHRASE) {
                // Nothing in CBC keeps a changed key from coming out, but the public key inside.
                assert_eq!(*signer.public_key(), EXAMPLE_KEY, "byte {place} bit {bit}");
                opened_count += 1;
            }
        }
    }
    assert!(opened_count <= 3, "{opened_count} changed files open");
}

fn openssl(arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    output.status.success().then_some(output.stdout)
}

/// OpenSSL 3.0 has all the parts and does not know the name of HMAC-SM3 in a key file, so its parts
/// are put together by hand; an OpenSSL that knows the name reads the file itself.
#[test]
fn openssl_opens_what_we_encrypt() {
    let pem = encrypted(2_048);
    let der = der_of(&pem);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let salt_place = der.windows(2).position(|bytes| bytes == [4, 16]).unwrap() + 2;
    let vector_place = der.windows(4).position(|bytes| bytes == [0x68, 2, 4, 16]).unwrap() + 4;
    let (salt, vector) = (&der[salt_place..][..16], &der[vector_place..][..16]);
    let text = &der[vector_place + 16 + 3..];
    assert!(text.len().is_multiple_of(16), "behind a length of two bytes");
    let (pass, salt) = (format!("hexpass:{}", hex(PASSPHRASE)), format!("hexsalt:{}", hex(salt)));
    let derive = ["kdf", "-keylen", "16", "-kdfopt", "digest:SM3", "-kdfopt", &pass, "-kdfopt"];
    let derive = [&derive[..], &[&salt, "-kdfopt", "iter:2048", "-binary", "PBKDF2"]].concat();
    let Some(key) = openssl(&derive, b"") else { return };
    let (key, vector) = (hex(&key), hex(vector));
    let decrypt = ["enc", "-d", "-sm4-cbc", "-K", &key, "-iv", &vector];
    let inside = openssl(&decrypt, text).expect("it decrypts what is inside");
    let shown = ["pkey", "-inform", "DER", "-pubout", "-outform", "DER"];
    let public = openssl(&shown, &inside).expect("it reads the key");
    assert!(public.ends_with(&EXAMPLE_KEY.0), "{}", hex(&public));

    let objects = openssl(&["list", "-objects"], b"").unwrap_or_default();
    if String::from_utf8_lossy(&objects).contains("1.2.156.10197.1.401.2") {
        let passin = format!("pass:{}", String::from_utf8_lossy(PASSPHRASE));
        let read = ["pkey", "-passin", &passin, "-pubout", "-outform", "DER"];
        let public = openssl(&read, pem.as_bytes()).expect("it reads the file");
        assert!(public.ends_with(&EXAMPLE_KEY.0));
    }
}
