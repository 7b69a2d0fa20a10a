use hufu_crypto::shamir::ShamirError;
use hufu_crypto::{Drbg, Signer as _, SoftwareSigner, entropy};

use super::*;
use crate::Usage;
use crate::pin::Pin;
use crate::profile::WrapForm;

fn signer(number: u8) -> SoftwareSigner {
    SoftwareSigner::from_bytes(&[number; 32]).unwrap()
}

fn passphrase(text: &str) -> Pin {
    Pin::from_reader(text.as_bytes(), "test").unwrap()
}

/// An export of a key that never was in a card, for the custodians with these numbers.
fn exported(needed: u8, custodians: &[u8]) -> (WrappedKey, Vec<ShareFile>) {
    let count = u8::try_from(custodians.len()).unwrap();
    let mut generator = Drbg::new(entropy::system(), "test").unwrap();
    let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
    generator.fill(&mut id).unwrap();
    generator.fill(&mut *secret).unwrap();
    let export = ExportId(id);
    let public = Some(*signer(99).public_key());
    let facts = Facts { export, key: "label \"vote\"".to_owned(), public, needed, count };
    let shares = shamir::split(&secret, needed, count, entropy::system()).unwrap();
    let package = WrappedKey {
        facts: facts.clone(),
        usage: Usage::Sign,
        profile: "hufu-softtoken".to_owned(),
        form: WrapForm::Sm4Gcm,
        start: vec![7; 12],
        wrapped: vec![8; 90],
        proof: Vec::new(),
        commitments: shares.iter().map(|share| commitment(export, share)).collect(),
        check: Digest([0; 32]),
    };
    let sealed = shares.iter().zip(custodians).map(|(share, number)| {
        let custodian = Custodian::Key(*signer(*number).public_key());
        ShareFile::seal(facts.clone(), share, custodian, &mut generator).unwrap()
    });
    let sealed = sealed.collect();
    (package.checked(&Secret(secret)), sealed)
}

fn opened(
    package: &WrappedKey,
    shares: &[(&ShareFile, &SoftwareSigner)],
) -> Result<Secret, CloneError> {
    let shares: Vec<_> =
        shares.iter().map(|(share, signer)| (*share, Opener::Key(signer))).collect();
    package.open(&shares)
}

#[test]
fn any_so_many_custodians_open_it_and_the_files_read_as_they_were_written() {
    let (package, shares) = exported(2, &[1, 2, 3]);
    let text = package.to_text().unwrap();
    assert_eq!(WrappedKey::parse(&text).unwrap(), package);
    for share in &shares {
        let text = share.to_text().unwrap();
        assert_eq!(ShareFile::parse(&text).unwrap(), *share);
        assert!(text.contains("2 give it back"), "{text}");
    }
    let of = |numbers: [u8; 2]| {
        let signers = numbers.map(signer);
        let place = |number: u8| &shares[usize::from(number) - 1];
        opened(&package, &[(place(numbers[0]), &signers[0]), (place(numbers[1]), &signers[1])])
    };
    let first = of([1, 2]).unwrap();
    for other in [[1, 3], [3, 2], [2, 1]] {
        assert_eq!(*of(other).unwrap().0, *first.0);
    }
    // The keys that follow from the secret have nothing to do with each other.
    let key = first.transport("sm4-gcm", 16);
    assert_ne!(key[..], first.transport("sm4-cbc-pad", 16)[..]);
    assert_ne!(key[..], first.check()[..16]);
}

#[test]
fn too_few_the_same_twice_and_another_exports_shares_are_refused_by_name() {
    let (package, shares) = exported(3, &[1, 2, 3, 4]);
    let [one, two, three] = [1, 2, 3].map(signer);
    let refused = opened(&package, &[(&shares[0], &one), (&shares[1], &two)]).err().unwrap();
    assert!(matches!(refused, CloneError::Shares(ShamirError::TooFew { given: 2, needed: 3 })));
    let twice = [(&shares[0], &one), (&shares[1], &two), (&shares[0], &one)];
    let refused = opened(&package, &twice).err().unwrap();
    assert!(matches!(refused, CloneError::Shares(ShamirError::Duplicate { index: 1 })));
    let (_, foreign) = exported(3, &[1, 2, 3, 4]);
    let mixed = [(&shares[0], &one), (&shares[1], &two), (&foreign[2], &three)];
    let refused = opened(&package, &mixed).err().unwrap();
    assert!(matches!(refused, CloneError::Foreign { index: 3, .. }), "{refused}");
    // Another custodian's key.
    let swapped = [(&shares[0], &one), (&shares[1], &three), (&shares[2], &two)];
    let refused = opened(&package, &swapped).err().unwrap();
    assert!(matches!(refused, CloneError::Sealed { index: 2, .. }), "{refused}");
    let one_more = passphrase("1234");
    let refused = shares[0].open(Opener::Passphrase(&one_more)).err().unwrap();
    assert!(refused.to_string().contains("private key"), "{refused}");
}

#[test]
fn a_share_that_was_changed_anywhere_is_refused() {
    let (package, shares) = exported(2, &[1, 2]);
    let [one, two] = [1, 2].map(signer);
    for bit in 0..shares[0].sealed.len() * 8 {
        let mut share = shares[0].clone();
        share.sealed[bit / 8] ^= 1 << (bit % 8);
        let refused = opened(&package, &[(&share, &one), (&shares[1], &two)]).err().unwrap();
        assert!(matches!(refused, CloneError::Sealed { index: 1, .. }), "bit {bit}: {refused}");
    }
    // Its header is sealed with it, and is that of the wrapped key.
    let mut share = shares[0].clone();
    share.index = 2;
    assert!(share.open(Opener::Key(&one)).is_err());
    for change in [
        |share: &mut ShareFile| share.facts.key.push('x'),
        |share: &mut ShareFile| share.facts.count += 1,
        |share: &mut ShareFile| share.facts.public = None,
    ] {
        let mut share = shares[0].clone();
        change(&mut share);
        assert!(share.open(Opener::Key(&one)).is_err());
        assert!(opened(&package, &[(&share, &one), (&shares[1], &two)]).is_err());
    }
}

/// Anybody can seal bytes to a custodian's public key; they are not the share he was given.
#[test]
fn a_share_that_somebody_else_made_is_named() {
    let (package, shares) = exported(2, &[1, 2]);
    let mut generator = Drbg::new(entropy::system(), "test").unwrap();
    let forged = shamir::Share { index: 2, value: Zeroizing::new([5; 32]) };
    let custodian = Custodian::Key(*signer(2).public_key());
    let forged = ShareFile::seal(package.facts.clone(), &forged, custodian, &mut generator);
    let (one, two) = (signer(1), signer(2));
    let both = [(&shares[0], &one), (&forged.unwrap(), &two)];
    let refused = opened(&package, &both).err().unwrap();
    assert!(matches!(refused, CloneError::NotGenuine { index: 2 }), "{refused}");
}

#[test]
fn a_wrapped_key_that_was_changed_anywhere_is_refused() {
    let (package, shares) = exported(2, &[1, 2]);
    let [one, two] = [1, 2].map(signer);
    let changes: [fn(&mut WrappedKey); 7] = [
        |it| it.wrapped[3] ^= 1,
        |it| it.start[0] ^= 1,
        |it| it.form = WrapForm::AesKeyWrapPad,
        |it| it.profile.push('x'),
        |it| it.usage = Usage::Decrypt,
        |it| it.proof.push(1),
        |it| it.check.0[31] ^= 1,
    ];
    for (place, change) in changes.iter().enumerate() {
        let mut changed = package.clone();
        change(&mut changed);
        let refused = opened(&changed, &[(&shares[0], &one), (&shares[1], &two)]).err().unwrap();
        assert!(matches!(refused, CloneError::Changed), "{place}: {refused}");
    }
    let mut other = package.clone();
    other.facts.public = Some(*signer(5).public_key());
    assert!(opened(&other, &[(&shares[0], &one), (&shares[1], &two)]).is_err());
}

#[test]
fn a_passphrase_opens_what_it_sealed_and_nothing_else() {
    let (package, _) = exported(2, &[1, 2]);
    let mut generator = Drbg::new(entropy::system(), "test").unwrap();
    let share = shamir::Share { index: 1, value: Zeroizing::new([6; 32]) };
    let (right, wrong) = (passphrase("correct horse"), passphrase("correct house"));
    let custodian = Custodian::Passphrase(&right);
    let file = ShareFile::seal(package.facts, &share, custodian, &mut generator).unwrap();
    assert!(file.wants_passphrase() && file.custodian().is_none());
    let text = file.to_text().unwrap();
    let file = ShareFile::parse(&text).unwrap();
    assert_eq!(*file.open(Opener::Passphrase(&right)).unwrap().value, [6; 32]);
    assert!(!file.sealed.windows(4).any(|bytes| bytes == [6; 4]));
    let refused = file.open(Opener::Passphrase(&wrong)).err().unwrap().to_string();
    assert!(refused.contains("passphrase") && !refused.contains("house"), "{refused}");
    assert!(file.open(Opener::Key(&signer(1))).is_err());
    let mut cut = file.clone();
    cut.sealed.truncate(32 + 12);
    assert!(cut.open(Opener::Passphrase(&right)).is_err(), "a shorter tag is easier to guess");
    // A hostile file must not keep the host busy.
    let slow = text.replace("rounds = 400000", "rounds = 4000001");
    assert!(slow != text && ShareFile::parse(&slow).is_err());
}

#[test]
fn files_that_are_none_are_refused_with_the_field() {
    let (package, shares) = exported(2, &[1, 2]);
    let text = shares[0].to_text().unwrap();
    let cases = [
        (text.replace("format 1", "format 2"), "format"),
        (text.replace("index = 1", "index = 3"), "index"),
        (text.replace("index = 1", "index = 0"), "index"),
        (text.replace("needed = 2", "needed = 1"), "needed"),
        (text.replace("sealed = \"04", "sealed = \"0g"), "sealed"),
        (text.replace("export = \"", "export = \"00"), "export"),
        (format!("{text}pin = \"1234\"\n"), "pin"),
        (text.replace("custodian", "guardian"), "guardian"),
        ("x".repeat(FILE_BYTES_MAX + 1), "bytes"),
    ];
    for (changed, field) in cases {
        assert_ne!(changed, text, "{field}");
        let refused = ShareFile::parse(&changed).unwrap_err().to_string();
        assert!(refused.contains(field) && !refused.contains("1234"), "{field}: {refused}");
    }
    let text = package.to_text().unwrap();
    for (from, to, field) in [
        ("format 1", "format 9", "format"),
        ("count = 2", "count = 3", "commitments"),
        ("usage = \"sign\"", "usage = \"wrap\"", "public_key"),
        ("check = \"", "check = \"0", "check"),
        ("form = \"sm4-gcm\"", "form = \"rot13\"", "rot13"),
    ] {
        let refused = WrappedKey::parse(&text.replace(from, to)).unwrap_err().to_string();
        assert!(refused.contains(field), "{field}: {refused}");
    }
}
