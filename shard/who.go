package shard

// Who is who makes a request, as it was made out where the request came in. The zero value is nobody.
type Who struct {
	Name  string
	Known bool // a token or a certificate says so
	// Credential is that of the login, of a token that was sealed by this cluster; 0: it rests on no login.
	Credential uint64
	// Dated says that a token states the revision of users and roles that it was made at, which is Revision.
	Dated    bool
	Revision uint64
}
