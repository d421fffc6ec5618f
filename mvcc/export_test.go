package mvcc

// SettleNow flushes and settles as far as the hold-back allows, without a budget.
func (s *Store) SettleNow() error {
	if err := s.Maintenance().Flush(); err != nil {
		return err
	}
	s.Maintenance().RequestSettle()
	for more := true; more; {
		var err error
		if more, err = s.Maintenance().Maintain(s.opt.steps.visits); err != nil {
			return err
		}
	}
	return nil
}

// decodeBaseKey returns the user key and revision of a base key.
func decodeBaseKey(b []byte) (key []byte, r Rev, err error) {
	esc, r, err := splitBaseKey(b)
	if err != nil {
		return nil, Rev{}, err
	}
	key, err = unescape(esc)
	return key, r, err
}
