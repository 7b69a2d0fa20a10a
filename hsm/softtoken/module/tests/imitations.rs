use super::*;
use crate::imitations::{SignInput, SignOutput, names};

/// Every way to sign that a vendor has gives what it says, with the vendor's own codes.
#[test]
fn every_imitation_signs_as_its_vendor_does() {
    for name in names() {
        let card = Card::new(name);
        let session = card.user();
        let [public, private] = card.pair(session);
        let key = card.public_key(session, public);
        let codes = card.module.dialect().all_codes();
        for (code, algorithm) in codes {
            let Algorithm::Sm2Sign(input, output) = *algorithm else { continue };
            let message = [3; 32];
            let digest = match input {
                SignInput::Digest => Digest(message),
                SignInput::Message => {
                    message_digest(&identity_digest(IDENTITY_DEFAULT, &key), &message)
                }
                SignInput::MessageWithoutZ => Sm3::of(&[&message]),
            };
            let signature = card.sign(session, *code, private, &message).unwrap();
            let raw = match output {
                SignOutput::Raw => signature.clone(),
                SignOutput::Der => der::read_signature(&signature).unwrap().0.to_vec(),
                // One in 256 is no DER: the imitation itself reads it.
                SignOutput::DerWrong => match der::read_signature(&signature) {
                    Ok(signature) => signature.0.to_vec(),
                    Err(_) => continue,
                },
            };
            assert!(is_valid(&key, digest, &raw), "{name} {code:#x}");
            card.module.begin_signing(session, &card.call(*code), public, Kind::Verify).unwrap();
            assert_eq!(card.module.verify(session, Some(&message), &signature), Ok(()));
        }
    }
}

/// Of some thousand signatures some are no DER, about one in 256, and all of them still verify
/// where DER is not asked for.
#[test]
fn sansec_writes_wrong_der_now_and_then() {
    let card = Card::new("sansec");
    let session = card.user();
    let [_, private] = card.pair(session);
    let count = 2_560;
    let wrong = (0..count)
        .map(|_| card.sign(session, 0x8000_8103, private, b"m").unwrap())
        .filter(|signature| der::read_signature(signature).is_err())
        .count();
    // Ten are expected; one in a million runs has none or more than 32.
    assert!((1..=32).contains(&wrong), "{wrong} of {count}");
}

#[test]
fn points_have_the_vendors_form() {
    for (name, size, private_has_point) in
        [("native", 67, false), ("koal", 65, false), ("westone", 64, false), ("tass", 67, true)]
    {
        let card = Card::new(name);
        let session = card.user();
        let [public, private] = card.pair(session);
        let read = |handle| {
            let object = card.module.object(session, handle).unwrap();
            object.read(CKA_EC_POINT, card.module.dialect())
        };
        assert_eq!(read(public).unwrap().len(), size, "{name}");
        assert_eq!(read(private).is_ok(), private_has_point, "{name}");
        let point = new().bytes(CKA_EC_POINT, &read(public).unwrap());
        assert!(card.find(session, &point).contains(&public), "{name}");
        // What it shows can be brought in again.
        let import = point
            .number(CKA_CLASS, CKO_PUBLIC_KEY)
            .number(CKA_KEY_TYPE, card.module.dialect().sm2_key_type)
            .flag(CKA_VERIFY, true);
        assert!(card.module.create_object(session, &import).is_ok(), "{name}");
    }
}

#[test]
fn another_vendors_codes_are_unknown() {
    let card = Card::new("sansec");
    for code in [native::SM2, 0x8005_000b, 0x0001_0002] {
        assert_eq!(card.module.call(code, Parameter::None).err(), Some(CKR_MECHANISM_INVALID));
    }
    let session = card.user();
    let foreign = new()
        .number(CKA_CLASS, CKO_SECRET_KEY)
        .number(CKA_KEY_TYPE, native::KEY_SM4)
        .bytes(CKA_VALUE, &[1; 16]);
    let refused = card.module.create_object(session, &foreign);
    assert_eq!(refused, Err(CKR_ATTRIBUTE_VALUE_INVALID));
}

#[test]
fn keys_of_numbered_containers_have_numbers_and_no_labels() {
    let card = Card::new("westone");
    let session = card.user();
    let call = card.call(0x8000_0001);
    let label = new().bytes(CKA_LABEL, b"name");
    for number in [1_u32, 2] {
        let pair = card.module.generate_pair(session, &call, &label, &label).unwrap();
        let by_number = new().bytes(CKA_ID, &number.to_le_bytes());
        assert_eq!(card.find(session, &by_number), pair);
    }
    assert_eq!(card.find(session, &label), []);
    for number in [9, u32::MAX] {
        let chosen = new().bytes(CKA_ID, &number.to_le_bytes());
        let pair = card.module.generate_pair(session, &call, &chosen, &chosen).unwrap();
        assert_eq!(card.find(session, &chosen), pair);
    }
    let pair = card.module.generate_pair(session, &call, &label, &label).unwrap();
    assert_eq!(card.find(session, &new().bytes(CKA_ID, &3_u32.to_le_bytes())), pair);
}

#[test]
fn wosign_tells_no_length() {
    let card = Card::new("wosign");
    let session = card.user();
    let [_, private] = card.pair(session);
    card.module.begin_signing(session, &card.call(0x0001_0002), private, Kind::Sign).unwrap();
    let sign = |room| card.module.sign(session, Some(&[1; 32]), room);
    assert_eq!(sign(None), Err(CKR_ARGUMENTS_BAD));
    assert!(sign(Some(64)).is_ok());
}
