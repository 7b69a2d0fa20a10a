//! The bytes of every type that is stored, sent or signed, pinned by size and SM3.
//!
//! A difference means that a node of this build no longer understands one of the last. If that is
//! wanted, the format version goes up and the new table, which the failing test prints, is put
//! here: editing the table is the approval.

#[cfg(test)]
mod golden {
    use std::collections::BTreeMap;

    use hufu_crypto::{Signer as _, Sm3, software_provider};
    use hufu_ledger::{
        Account, Asset, Holding, Mandate, Nonce, StateChanges, StateKey, StateTree, StateValue,
        Write,
    };
    use hufu_tests::accounts::{self, Accounts};
    use hufu_tests::examples::{self, Chain};
    use hufu_types::{Address, AssetCode, ChainId, Strength};
    use zerocopy::IntoBytes as _;

    /// Name, size in bytes, SM3 of the bytes.
    #[rustfmt::skip]
    const TABLE: &[(&str, usize, &str)] = &[
        ("public_key", 64, "527b7972bbd38ea5fd9c2d6b38b8de2a4c0760ce288e5d88bf4d6c6b3b2ce0a0"),
        ("address", 20, "18ad0624c7d31dc34d7acf666b9408727332218a986c41da08f653445f38ee8e"),
        ("genesis", 368, "d0ff0dddc56e1923d81fd4c14221c7589b034dbd0a34dc669f534d344eae07ae"),
        ("chain_id", 32, "0c6ff22b5b9504159dcfea2af82c23dc7c6bbd2f20ad9dde287c7691f2fa5c11"),
        ("validators_digest", 32, "6fd4659633295ef1cdbfec43b911e69794ee94f32060bce9962125232b524f48"),
        ("transaction/open_account", 216, "8b224199e659f2b2330291037ed71e8ea0c36bc79170e04a10deb68bd20c69b4"),
        ("transaction/close_account", 216, "db27390c7e8d0f2116eded1f59751dc5aec74e0ef473bcfb81b578a7c9506dc6"),
        ("transaction/create_asset", 252, "e39f227f206f1c93342207427eaeaff98cf872340ad42a24abfe51ff34979826"),
        ("transaction/issue_asset", 248, "90851cdf2710fe772839dd0d9d6df6254b7e78b2bbfc255dbcaf18f8d8eea94c"),
        ("transaction/redeem_asset", 248, "461fee05d7c66031971e860d4f9d05a57025dc0ed568dfb2fb780444d7c6334c"),
        ("transaction/transfer", 268, "aa09f3ab4ba1f160a0d7b38f0bbd82ed5f4beb3cfed9726c0308b5af6a62490b"),
        ("transaction/settle", 344, "756434fd4d3bd6da89ab7b0bd511422227febb962a340b0b2a6d3cb205cc9858"),
        ("transaction/grant_mandate", 256, "4081a7510d7e8d09fd025215b4ca897bd2c7af13a722cf1f7114a2a20accd66d"),
        ("transaction/revoke_mandate", 232, "0f9495f89b2aca56e02878e5062d79c64cdc2f296172d2579cad38a011c1a56a"),
        ("transaction/notarise", 247, "520d3d094684b68a40954c6921d8f5e700e537b8a4520c84be469e4e39af9c39"),
        ("transaction/freeze_holding", 232, "f8d14c5105d96d7ce4adf0f1cf338a1dd25e349687ca55a8b1b69d66c12d74e4"),
        ("transaction/unfreeze_holding", 232, "edcbedaa450d45641e672943d61df64a1678307f9377eafb52a76d4794fad187"),
        ("transaction/all", 879, "8d2e63acd603788838a21859541afb090e8257d1b2253aa0341923c3fecd8956"),
        ("batch", 776, "4fdc232d1e697f1ae6b62ccf36e120194bc4f18cdc65ad1368d0b1fd4b50db58"),
        ("batch_digest", 32, "f1b8529cd869daaf45bbc2c853dcb5dac99918cf80e4c8bd865e9b4feeb27404"),
        ("tx_id", 32, "4d799adca787039f435a5e49013847f40ea190537562914aecd8214d76d6c282"),
        ("tx_digest", 32, "9eb9152a9142e2d20395ecbcd593ec6611d9b8ecddefe4bf8406eb4dd57cfd10"),
        ("block/1", 316, "e52a3955a60fa2e6f56f6e434b4daa8f23092b069f8cb2b6ed79b284d3fcf1ca"),
        ("block_header/1", 252, "9957e2f701d768bbf29ac23416c16debcbedfa6ccb5f7bf82fbc2a48c0b1538e"),
        ("block_digest/1", 32, "45ebf2d858db0b49d49a46a9ebe6df38c34756900f406d0d64682745cd62f60b"),
        ("certificate/1", 220, "6594907f7259430e3c6d8187e57705b72cddf3ab176000f1fd52369e1089b3f9"),
        ("block/2", 284, "e05e50af285bea677016c445f69b47038b485e6aba35d12187e8808d18d818e8"),
        ("block_header/2", 252, "4b050a3538b483d4bd2c97876c4c3f5962266b99cc2a8be6c575b76498fe8132"),
        ("block_digest/2", 32, "837d34b156ea166ca8be5be01fad0326b895bae71860af5486767a512e5f9e8b"),
        ("certificate/2", 220, "989db98b00e67efa1b006610261a90ea7a6c94f0869ef289e365871e7c63e12e"),
        ("block/3", 252, "14a7f0deef670ab260ad36070833844a750ae4aebd60ee4f75ca3a39b667b1c3"),
        ("block_header/3", 252, "14a7f0deef670ab260ad36070833844a750ae4aebd60ee4f75ca3a39b667b1c3"),
        ("block_digest/3", 32, "298df9d0195192fc558ce509ce056fd30a7c2b2d221e159f1e1b16b5e3fef1b3"),
        ("certificate/3", 220, "64dff024915c19ff549dd8d2d598a2781b2da06ad8a17347fd3a3028596c7a85"),
        ("vote", 104, "d4efddfdf3deb522f235721e69fd01aea92316f7429b78b9df6852f52493a07c"),
        ("signed_vote", 168, "9e20f078446da4ad377a19197ccdd55c2619b8aa8fcd58b47f046967f381d8ab"),
        ("signed_vote/nil", 168, "5e879a279072b774b4c3ea50c64a47f7cf055c42f5903998dc7531f82f44e3ab"),
        ("proposal", 112, "89a231e4372c955a33857923094c7dbb7234623881fad417cd57b7695d6bda9b"),
        ("signed_proposal", 176, "36eb80734b8b6ea74e678d14f43b5d39d503fc9b3897d2fcf18aea5e5c514d9f"),
        ("signed_proposal/locked", 176, "7d9460680e0ce810f1267f20bb2eb28e6b3cedae3d75ec5e3f6074a0e0460e22"),
        ("receipt/success", 116, "5be19598a5abc4aa02b1221da7ae78c787b8cb63889bbdee92b468555062804c"),
        ("receipt_leaf/success", 32, "d332441c3b9a39812b2167833e5ec784c809dc539c16ec2b36f2ae6f4287197f"),
        ("receipt/failure", 116, "6e1df73cf82f416bb68496662fe50bc285830d8fcef32041d99bcb49b0204463"),
        ("receipt_leaf/failure", 32, "07a0febfd7adc08dbbcd51bfb5aa4271bfbb92b24e25bc0d83068a1e4f511eeb"),
        ("receipt/failure_whole", 116, "0fb8c52de0be13283fc6b01b4917370f1b6e4ac0a04165784f786a1e8ae64ea6"),
        ("receipt_leaf/failure_whole", 32, "b16c56b3a7047cf0e1d3457b278d3b4a04b6d55fc33b9699345e2c5cb7ddac5d"),
        ("receipt_proof/committed", 848, "d0fe385b9e0f718735565c4d590f10fe20a70ba5cfaf1b029acd82a70e3ccf21"),
        ("receipt_proof/certified", 1418, "537155600ecc0611c606f2e146c285896ce187a00ded5771687c20ae220a37eb"),
        ("state_key/account", 21, "a864868d5f0babf12391419c2cedae20dec719065080d2c2bba4085ed763003b"),
        ("state_value/account", 24, "ba816c275946089cbd20169dd449e94faa0e0f0be5053d6898c89fa391ac9725"),
        ("state_key/asset", 17, "d39d46094ed0c3f0988bf1de55453881b465486b679050a78c780fdf2bfbba09"),
        ("state_value/asset", 64, "a6f352ced9076a31d872536ea2c283cde58587bbced060e1bf1b54f86ab52e32"),
        ("state_key/holding", 37, "326d3b97945ab3b3d776813412f30ce540e26801e4f3d1c5ef8f8c66e0690439"),
        ("state_value/holding", 24, "c469d8e50fdf9d2551cc59be10fc948a5b5b4ea6702fa7201626fd9c967697c5"),
        ("state_key/mandate", 57, "e8418aed4b0af87995f1801d5a0b49e827a3d0d4832e2b46c75fbf92e3761aef"),
        ("state_value/mandate", 32, "7f29d8b0b4616885cac9c05c97f7cb7e2c290539905aa7fb776acc723b175e0e"),
        ("state_key/nonce", 29, "79b28da8970ad2d7832c631b7f8a4a879ff25c5a825c5863a28fd9fa3a18786b"),
        ("state_value/nonce", 16, "19917661588e3a87b9fe25a5fa435afbd8d052d811f3f4ff65f9d0e032c4ba1c"),
        ("state_root/empty", 32, "886c6cc032301a782d536e56c085a94a4f6d2a78a6ad58c7b21beb2e85e6c9df"),
        ("state_root/nonces", 32, "a918ab14562b837c198619da9d03bf548a37c42e655d314509af19def9e8a702"),
        ("state_record/row", 4100, "ae8a2595652f85b01c0c9ddf3859e72349a7825448443dbbc423ab86fee5cadf"),
        ("state_record/fork", 576, "887636a3cbb6dc9133872f7cc0ebf325e68a710ca59ce140ba3f4637b9b5629a"),
        ("state_record/all", 74092, "a4da88e14c0b08a3d863f40dc34513cc3302a590db740d1ebc3f9c97711487e1"),
        ("state_proof/present", 1036, "788d5a404b4d6180891ca49565855c31c69fa2836f650bfa1beba88b77e37876"),
        ("state_proof/absent", 972, "b0ac55aaa61fed0868612e3a2cf2a14579fab124f79bc4880e83fe71d899939f"),
        ("account_proof/present", 3492, "4a33112486f1c33c01d61d2d0d16ae94cdcffeaabb75d3e162dfaca217518d19"),
        ("account_proof/absent", 1149, "0cbc45ffd833670970a31836e63fec832a77ac6deb7ddd95d94b44f2f98dcb75"),
    ];

    /// Every example with its bytes, in the order of the table.
    fn encodings() -> Vec<(String, Vec<u8>)> {
        let chain = Chain::new();
        let id = chain.id();
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |name: &str, bytes: &[u8]| all.push((name.to_owned(), bytes.to_vec()));

        add("public_key", examples::signer(1).public_key().as_bytes());
        add("address", examples::signer(1).public_key().address().as_bytes());
        add("genesis", &chain.genesis.to_bytes());
        add("chain_id", id.as_bytes());
        add("validators_digest", chain.genesis.validators.digest(id).as_bytes());

        let operations = examples::operations();
        for (name, operation) in &operations {
            let transaction = examples::transaction(id, 1, &[*operation]);
            add(&format!("transaction/{name}"), transaction.bytes());
        }
        let every: Vec<_> = operations.iter().map(|(_, operation)| *operation).collect();
        add("transaction/all", examples::transaction(id, u64::MAX, &every).bytes());

        let first = &chain.heights[0];
        add("batch", first.batches[0].bytes());
        add("batch_digest", first.batches[0].digest().as_bytes());
        add("tx_id", first.batches[0].entries()[0].id.as_bytes());
        add("tx_digest", first.batches[0].entries()[0].digest.as_bytes());
        for height in &chain.heights {
            let (number, block) = (height.block.height(), &height.block);
            let mut bytes = Vec::new();
            block.write(&mut bytes);
            add(&format!("block/{number}"), &bytes);
            add(&format!("block_header/{number}"), block.header().as_bytes());
            add(&format!("block_digest/{number}"), block.digest().as_bytes());
            let mut bytes = Vec::new();
            height.certificate.write(&mut bytes);
            add(&format!("certificate/{number}"), &bytes);
        }
        let precommit = examples::precommit(id, 1, first.block.digest(), 1);
        add("vote", precommit.vote.as_bytes());
        add("signed_vote", precommit.as_bytes());
        add("signed_vote/nil", examples::prevote_for_nil(id).as_bytes());
        let [proposal, locked] = examples::proposals(id);
        add("proposal", proposal.proposal.as_bytes());
        add("signed_proposal", proposal.as_bytes());
        add("signed_proposal/locked", locked.as_bytes());
        for (name, receipt) in ["success", "failure", "failure_whole"].iter().zip(&first.receipts) {
            add(&format!("receipt/{name}"), receipt.as_bytes());
            add(&format!("receipt_leaf/{name}"), receipt.leaf().as_bytes());
        }
        add("receipt_proof/committed", &chain.proof(1, 3, Strength::Committed).to_bytes());
        add("receipt_proof/certified", &chain.proof(1, 3, Strength::Certified).to_bytes());
        add_state(id, &mut add);
        let accounts = Accounts::new(&chain);
        for (name, address) in [("present", accounts::PRESENT), ("absent", accounts::ABSENT)] {
            add(&format!("account_proof/{name}"), &accounts.proof(&chain, address).to_bytes());
        }
        all
    }

    /// Keys and values of the state, and a state of so many nonces that some of its sixteen buckets
    /// are rows and some forks.
    fn add_state(id: ChainId, add: &mut impl FnMut(&str, &[u8])) {
        let (one, other, asset) =
            (Address([1; 20]), Address([2; 20]), AssetCode::new("BOND").unwrap());
        let open = Account { opened_at: 3, closed_at: None, holdings_count: 1, mandates_count: 0 };
        let bond =
            Asset { authority: one, decimals: 2, created_at: 4, supply_cap: 1 << 90, supply: 7 };
        let granted = Mandate { limit: 5, expires_at: 700, granted_at: 9 };
        let used = StateValue::Nonce(Nonce { valid_until: 605, used_at: 5 });
        let nonce = |nonce| StateKey::Nonce { sender: one, nonce };
        let mandate = StateKey::Mandate { owner: one, agent: other, asset };
        let entries = [
            ("account", StateKey::Account(one), StateValue::Account(open)),
            ("asset", StateKey::Asset(asset), StateValue::Asset(bond)),
            (
                "holding",
                StateKey::Holding(one, asset),
                StateValue::Holding(Holding { balance: 7, frozen: true }),
            ),
            ("mandate", mandate, StateValue::Mandate(granted)),
            ("nonce", nonce(8), used),
        ];
        for (name, key, value) in entries {
            add(&format!("state_key/{name}"), key.to_bytes().as_slice());
            add(&format!("state_value/{name}"), value.to_bytes().as_slice());
        }
        let hasher = &*software_provider().hasher;
        let mut tree = StateTree::new(id, 4, hasher);
        add("state_root/empty", tree.root().as_bytes());
        let write = |(key, value)| Write { key, before: None, value: Some(value) };
        let nonces = (100..1_150).map(|number| write((nonce(number), used)));
        let writes: Vec<Write> =
            entries.into_iter().map(|(_, key, value)| write((key, value))).chain(nonces).collect();
        let changes = StateChanges::new(id, 4, &writes, hasher);
        let update = tree.update(&changes);
        assert!(update.wanted().is_empty(), "nothing lies in an empty state");
        let applied = tree.apply(&update, hasher).unwrap();
        add("state_root/nonces", applied.root.as_bytes());
        let records: BTreeMap<Vec<u8>, Vec<u8>> = applied
            .records()
            .map(|(place, record)| (place.to_bytes().as_ref().to_vec(), record.unwrap().to_vec()))
            .collect();
        let top = |is_fork| {
            let found = records
                .iter()
                .find(|(key, record)| key.len() == 4 && (record.len() == 576) == is_fork);
            found.unwrap().1.as_slice()
        };
        add("state_record/row", top(false));
        add("state_record/fork", top(true));
        let all: Vec<u8> =
            records.iter().flat_map(|(key, record)| [&key[..], record].concat()).collect();
        add("state_record/all", &all);
        for (name, key) in [("present", nonce(100)), ("absent", nonce(1))] {
            let mut prover = tree.prove(&key);
            while let Some(place) = prover.wanted() {
                prover.supply(&records[place.to_bytes().as_ref()]).unwrap();
            }
            add(&format!("state_proof/{name}"), &prover.finish().to_bytes());
        }
    }

    #[test]
    fn bytes_are_those_of_the_table() {
        let found: Vec<(String, usize, String)> = encodings()
            .into_iter()
            .map(|(name, bytes)| (name, bytes.len(), Sm3::of(&[&bytes]).to_string()))
            .collect();
        let expected: Vec<(String, usize, String)> = TABLE
            .iter()
            .map(|(name, size, digest)| ((*name).to_owned(), *size, (*digest).to_owned()))
            .collect();
        if found == expected {
            return;
        }
        for row in found.iter().filter(|row| !expected.contains(row)) {
            println!("differs from the table: {}", row.0);
        }
        println!("the table of these bytes:");
        for (name, size, digest) in &found {
            println!("        (\"{name}\", {size}, \"{digest}\"),");
        }
        panic!("the encoding has changed: raise the format version and replace the table");
    }
}
