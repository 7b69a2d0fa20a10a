//! The objects of a token and of its sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cryptoki_sys::*;

use super::{Entry, Place, Slot, State};
use crate::answer::Answer;
use crate::attributes::{Occasion, Template};
use crate::object::Object;
use crate::session::Session;
use crate::store::header::{Header, User};
use crate::store::{StoreId, TokenKey};

/// A key that was looked up, and the epoch in which it may be used.
pub(crate) struct Found {
    pub(crate) object: Arc<Object>,
    pub(crate) epoch: u64,
}

impl State {
    pub(super) fn is_user(&self) -> bool {
        matches!(self.login, Some((User::Normal, _)))
    }

    fn sees(&self, object: &Object) -> bool {
        self.is_user() || !object.flag(CKA_PRIVATE)
    }

    fn entry(&self, handle: CK_OBJECT_HANDLE, missing: CK_RV) -> Answer<&Entry> {
        let entry = self.objects.get(&handle).filter(|entry| self.sees(&entry.object));
        entry.ok_or(missing)
    }

    /// The key that an object of the token is sealed with.
    fn sealing_key(&self, header: &Header, is_closed: bool) -> Answer<TokenKey> {
        match &self.login {
            _ if !is_closed => Ok(header.public_key()),
            Some((_, key)) => Ok(key.clone()),
            None => Err(CKR_USER_NOT_LOGGED_IN),
        }
    }
}

impl Slot {
    /// The objects on disk that may be seen now. Handles of those that were known stay.
    pub(super) fn reload_objects(&self, state: &mut State) -> Answer<()> {
        let Some(header) = state.header.filter(Header::is_initialised) else { return Ok(()) };
        let listed = self.store.list().map_err(|error| self.shared.refuse(&error))?;
        let mut known: BTreeMap<StoreId, (CK_OBJECT_HANDLE, Arc<Object>)> = BTreeMap::new();
        for (handle, entry) in &state.objects {
            if let Place::Token(id) = entry.place {
                known.insert(id, (*handle, Arc::clone(&entry.object)));
            }
        }
        state.objects.retain(|_, entry| matches!(entry.place, Place::Session(_)));
        for (id, is_closed) in listed {
            if is_closed && state.login.is_none() {
                continue;
            }
            let key = state.sealing_key(&header, is_closed)?;
            let read = self.store.read_object(&header, &key, id, is_closed);
            let read = read.map_err(|error| self.shared.refuse(&error))?;
            if !state.sees(&read) {
                continue;
            }
            let before = known.remove(&id);
            let handle = before.as_ref().map_or_else(|| self.shared.handle(), |(it, _)| *it);
            // An unchanged object keeps the tables that were made for its key.
            let same = before.filter(|(_, object)| *object.to_bytes() == *read.to_bytes());
            let object = same.map_or_else(|| Arc::new(read), |(_, object)| object);
            state.objects.insert(handle, Entry { object, place: Place::Token(id) });
        }
        Ok(())
    }

    /// Whether such an object may be written in this session.
    fn check_writable(state: &State, session: &Session, object: &Object) -> Answer<()> {
        if object.flag(CKA_TOKEN) && !session.is_rw {
            return Err(CKR_SESSION_READ_ONLY);
        }
        if object.flag(CKA_PRIVATE) && !state.is_user() {
            return Err(CKR_USER_NOT_LOGGED_IN);
        }
        Ok(())
    }

    /// Takes new objects in, all or none; their handles.
    ///
    /// # Errors
    /// `CKR_SESSION_READ_ONLY`, `CKR_USER_NOT_LOGGED_IN`, `CKR_DEVICE_ERROR`.
    pub(crate) fn insert<const N: usize>(
        &self,
        session: &Session,
        mut objects: [Object; N],
    ) -> Answer<[CK_OBJECT_HANDLE; N]> {
        let (mut state, _lock) = self.enter_session(session)?;
        self.number(&state, &mut objects)?;
        let is_so = matches!(state.login, Some((User::So, _)));
        for object in &objects {
            Self::check_writable(&state, session, object)?;
            if object.flag(CKA_TRUSTED) && !is_so {
                return Err(CKR_ATTRIBUTE_READ_ONLY);
            }
        }
        let mut ids = [const { None }; N];
        for (id, object) in ids.iter_mut().zip(&objects).filter(|(_, it)| it.flag(CKA_TOKEN)) {
            let new = StoreId::new().map_err(|error| self.shared.refuse(&error))?;
            *id = Some((new, object.is_closed()));
        }
        // A pair is there or it is not, wherever the power goes.
        let kept: Vec<_> = ids.iter().flatten().copied().collect();
        if kept.len() > 1 {
            self.alter(&mut state, |store, _| store.begin_together(&kept))?;
        }
        let mut handles = [0; N];
        for place in 0..N {
            let id = ids[place].map(|(id, _)| id);
            let made = self.insert_one(&mut state, session, &mut objects[place], id);
            match made {
                Ok(handle) => handles[place] = handle,
                Err(refused) => {
                    for handle in &handles[..place] {
                        self.remove(&mut state, *handle)?;
                    }
                    return Err(refused);
                }
            }
        }
        if kept.len() > 1 {
            // If this fails, so did all of it: what was written is undone at the next look.
            self.alter(&mut state, |store, _| store.end_together())?;
        }
        Ok(handles)
    }

    fn insert_one(
        &self,
        state: &mut State,
        session: &Session,
        object: &mut Object,
        id: Option<StoreId>,
    ) -> Answer<CK_OBJECT_HANDLE> {
        let unique = match id {
            Some(id) => id,
            None => StoreId::new().map_err(|error| self.shared.refuse(&error))?,
        };
        object.set(CKA_UNIQUE_ID, unique.text().as_bytes());
        let object = std::mem::replace(object, Object::new(BTreeMap::new()));
        let place = match id {
            Some(id) => {
                self.write(state, id, &object)?;
                Place::Token(id)
            }
            None => Place::Session(session.handle),
        };
        let handle = self.shared.handle();
        state.objects.insert(handle, Entry { object: Arc::new(object), place });
        Ok(handle)
    }

    fn write(&self, state: &mut State, id: StoreId, object: &Object) -> Answer<()> {
        let header = *Self::header(state)?;
        let key = state.sealing_key(&header, object.is_closed())?;
        self.alter(state, |store, _| store.write_object(&header, &key, id, object))
    }

    fn remove(&self, state: &mut State, handle: CK_OBJECT_HANDLE) -> Answer<()> {
        let entry = state.objects.get(&handle).ok_or(CKR_OBJECT_HANDLE_INVALID)?;
        if let Place::Token(id) = entry.place {
            let is_closed = entry.object.is_closed();
            self.alter(state, |store, _| store.remove_object(id, is_closed))?;
        }
        state.objects.remove(&handle);
        Ok(())
    }

    /// Where keys have numbers: one number for all that come at once, and no label.
    fn number(&self, state: &State, objects: &mut [Object]) -> Answer<()> {
        let is_key = |object: &Object| {
            matches!(object.class(), CKO_PUBLIC_KEY | CKO_PRIVATE_KEY | CKO_SECRET_KEY)
        };
        if !self.shared.dialect.keys_by_index {
            return Ok(());
        }
        let number = |object: &Object| {
            let id = object.get(CKA_ID)?.try_into().ok()?;
            Some(u32::from_le_bytes(id))
        };
        // The first that is free: a client may have chosen the last there is.
        let taken: BTreeSet<_> =
            state.objects.values().filter_map(|entry| number(&entry.object)).collect();
        let next =
            (1..=u32::MAX).find(|number| !taken.contains(number)).ok_or(CKR_DEVICE_MEMORY)?;
        for object in objects.iter_mut().filter(|object| is_key(object)) {
            object.set(CKA_LABEL, b"");
            let number = number(object).unwrap_or(next);
            object.set(CKA_ID, &number.to_le_bytes());
        }
        Ok(())
    }

    /// A copy of the object with other attributes.
    ///
    /// # Errors
    /// As `C_CopyObject`.
    pub(crate) fn copy(
        &self,
        session: &Session,
        handle: CK_OBJECT_HANDLE,
        template: &Template,
    ) -> Answer<CK_OBJECT_HANDLE> {
        let copy = {
            let state = self.enter()?;
            let is_so = matches!(state.login, Some((User::So, _)));
            let entry = state.entry(handle, CKR_OBJECT_HANDLE_INVALID)?;
            entry.object.changed(template, Occasion::Copy, is_so)?
        };
        let [handle] = self.insert(session, [copy])?;
        Ok(handle)
    }

    /// Removes an object.
    ///
    /// # Errors
    /// As `C_DestroyObject`.
    pub(crate) fn destroy(&self, session: &Session, handle: CK_OBJECT_HANDLE) -> Answer<()> {
        let (mut state, _lock) = self.enter_session(session)?;
        let object = Arc::clone(&state.entry(handle, CKR_OBJECT_HANDLE_INVALID)?.object);
        Self::check_writable(&state, session, &object)?;
        if !object.flag(CKA_DESTROYABLE) {
            return Err(CKR_ACTION_PROHIBITED);
        }
        self.remove(&mut state, handle)
    }

    /// Changes attributes of an object.
    ///
    /// # Errors
    /// As `C_SetAttributeValue`.
    pub(crate) fn change(
        &self,
        session: &Session,
        handle: CK_OBJECT_HANDLE,
        template: &Template,
    ) -> Answer<()> {
        let (mut state, _lock) = self.enter_session(session)?;
        let is_so = matches!(state.login, Some((User::So, _)));
        let entry = state.entry(handle, CKR_OBJECT_HANDLE_INVALID)?;
        Self::check_writable(&state, session, &entry.object)?;
        let changed = entry.object.changed(template, Occasion::Set, is_so)?;
        let place = entry.place;
        if let Place::Token(id) = place {
            self.write(&mut state, id, &changed)?;
        }
        state.objects.insert(handle, Entry { object: Arc::new(changed), place });
        Ok(())
    }

    /// An object that may be seen.
    ///
    /// # Errors
    /// `missing` if there is none with this handle.
    pub(crate) fn object(&self, handle: CK_OBJECT_HANDLE, missing: CK_RV) -> Answer<Found> {
        let state = self.enter()?;
        let object = Arc::clone(&state.entry(handle, missing)?.object);
        Ok(Found { object, epoch: self.epoch() })
    }

    /// Handles of all objects that may be seen and have these attributes.
    ///
    /// # Errors
    /// What keeps the token from being read.
    pub(crate) fn find(&self, template: &Template) -> Answer<Vec<CK_OBJECT_HANDLE>> {
        let state = self.enter()?;
        let dialect = self.shared.dialect;
        let seen = state.objects.iter().filter(|(_, entry)| state.sees(&entry.object));
        let found = seen.filter(|(_, entry)| entry.object.matches(template, dialect));
        Ok(found.map(|(handle, _)| *handle).collect())
    }

    /// Leaves the handles of objects that may be seen.
    ///
    /// # Errors
    /// What keeps the token from being read.
    pub(crate) fn retain_seen(&self, handles: &mut Vec<CK_OBJECT_HANDLE>) -> Answer<()> {
        let state = self.enter()?;
        handles.retain(|handle| state.entry(*handle, CKR_OBJECT_HANDLE_INVALID).is_ok());
        Ok(())
    }

    /// Whether the user is logged in, and the session may write to the token.
    ///
    /// # Errors
    /// As [`Slot::insert`] would, before a key is made for nothing.
    pub(crate) fn check_insert(&self, session: &Session, object: &Object) -> Answer<()> {
        Self::check_writable(&*self.enter()?, session, object)
    }
}
