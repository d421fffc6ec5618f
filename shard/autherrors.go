package shard

import "errors"

// Errors of users, roles and permissions; each is refused for good. The texts are those of etcd's auth store, which shows them where its
// clients know no other.
var (
	// ErrRootUserNotExist is returned where authentication is to be turned on and there is no user root.
	ErrRootUserNotExist = errors.New("auth: root user does not exist")
	// ErrRootRoleNotExist is the same where that user does not have the role root.
	ErrRootRoleNotExist = errors.New("auth: root user does not have root role")
	// ErrUserExists is returned for a user that is added twice.
	ErrUserExists = errors.New("auth: user already exists")
	// ErrUserEmpty is returned for a user without a name, and for a request of nobody where authentication is on.
	ErrUserEmpty = errors.New("auth: user name is empty")
	// ErrUserNotFound is returned for a user that there is not.
	ErrUserNotFound = errors.New("auth: user not found")
	// ErrRoleExists is returned for a role that is added twice.
	ErrRoleExists = errors.New("auth: role already exists")
	// ErrRoleNotFound is returned for a role that there is not.
	ErrRoleNotFound = errors.New("auth: role not found")
	// ErrRoleEmpty is returned for a role without a name.
	ErrRoleEmpty = errors.New("auth: role name is empty")
	// ErrPermissionNotGiven is returned where a permission is granted and none is stated.
	ErrPermissionNotGiven = errors.New("auth: permission not given")
	// ErrAuthFailed is returned for a wrong name or password.
	ErrAuthFailed = errors.New("auth: authentication failed, invalid user ID or password")
	// ErrNoPasswordUser is returned where a password is given for a user that has none.
	ErrNoPasswordUser = errors.New("auth: authentication failed, password was given for no password user")
	// ErrPermissionDenied is returned for what a user may not do.
	ErrPermissionDenied = errors.New("auth: permission denied")
	// ErrRoleNotGranted is returned where a role is revoked that the user does not have.
	ErrRoleNotGranted = errors.New("auth: role is not granted to the user")
	// ErrPermissionNotGranted is returned where a permission is revoked that the role does not have.
	ErrPermissionNotGranted = errors.New("auth: permission is not granted to the role")
	// ErrAuthNotEnabled is returned for a login where authentication is off.
	ErrAuthNotEnabled = errors.New("auth: authentication is not enabled")
	// ErrAuthOldRevision is returned for a token that states an older revision of users and roles than there is.
	ErrAuthOldRevision = errors.New("auth: revision in header is old")
	// ErrInvalidAuthToken is returned for a token that is forged, has expired, or is not valid any more.
	ErrInvalidAuthToken = errors.New("auth: invalid auth token")
	// ErrInvalidAuthMgmt is returned for a change that would lock everybody out, and for a permission that names no keys.
	ErrInvalidAuthMgmt = errors.New("auth: invalid auth management")
)
