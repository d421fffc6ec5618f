package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// nested maps the sections of etcd's configuration file to the flags that their keys stand for; a dot leads into a section of a section.
var nested = map[string]map[string]string{
	"client-transport-security": {
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "client-cert-file",
		"client-key-file": "client-key-file", "client-cert-auth": "client-cert-auth",
		"trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls",
		"allowed-hostname": "client-cert-allowed-hostname",
	},
	"peer-transport-security": {
		"cert-file": "peer-cert-file", "key-file": "peer-key-file", "client-cert-file": "peer-client-cert-file",
		"client-key-file": "peer-client-key-file", "client-cert-auth": "peer-client-cert-auth",
		"trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	},
	"discovery-config": {
		"token": "discovery-token", "client.endpoints": "discovery-endpoints",
		"client.dial-timeout": "discovery-dial-timeout", "client.request-timeout": "discovery-request-timeout",
		"client.keepalive-time": "discovery-keepalive-time", "client.keepalive-timeout": "discovery-keepalive-timeout",
		"client.secure.cert": "discovery-cert", "client.secure.key": "discovery-key", "client.secure.cacert": "discovery-cacert",
		"client.secure.insecure-transport":       "discovery-insecure-transport",
		"client.secure.insecure-skip-tls-verify": "discovery-insecure-skip-tls-verify",
		"client.auth.username":                   "discovery-user", "client.auth.password": "discovery-password",
	},
	"socket-options": {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
}

// readFile takes everything from the configuration file; flags and variables are put aside.
func (p *parser) readFile() error {
	b, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	shadowed := len(p.values) > 0
	p.values = map[string]string{}
	if err := p.readYAML(b); err != nil {
		return fmt.Errorf("configuration file %s: %w", p.file, err)
	}
	msg := "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided"
	if shadowed {
		p.cfg.warn(msg, "path", p.file)
	} else {
		p.cfg.info(msg, "path", p.file)
	}
	return nil
}

func (p *parser) readYAML(b []byte) error {
	j, err := yaml.YAMLToJSON(b)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(j)))
	dec.UseNumber()
	var top map[string]any
	if err := dec.Decode(&top); err != nil {
		return err
	}
	for _, key := range sortedKeys(top) {
		keys, isSection := nested[key]
		if !isSection {
			if err := p.setFromFile(key, key, top[key]); err != nil {
				return err
			}
			continue
		}
		section, ok := top[key].(map[string]any)
		if !ok && top[key] != nil {
			return fmt.Errorf("invalid %s", key)
		}
		section = flatten(section)
		for _, sub := range sortedKeys(section) {
			if err := p.setFromFile(key+"."+sub, keys[sub], section[sub]); err != nil {
				return err
			}
		}
	}
	return nil
}

// flatten writes a section with sections in it as one, with dots in its keys.
func flatten(section map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range section {
		inner, ok := value.(map[string]any)
		if !ok {
			out[key] = value
			continue
		}
		for sub, v := range flatten(inner) {
			out[key+"."+sub] = v
		}
	}
	return out
}

// setFromFile gives one key's value to its flag. Empty values say nothing, as in etcd.
func (p *parser) setFromFile(key, name string, value any) error {
	spec, ok := p.specs[name]
	if !ok {
		p.cfg.warn("unrecognized key in the configuration file", "key", key)
		return nil
	}
	text, err := fileText(spec, value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if text == "" {
		return nil
	}
	if err := p.fs.Set(name, text); err != nil {
		return fmt.Errorf("invalid value %q for %s: %w", text, key, err)
	}
	return nil
}

// fileText writes a value as it would stand on the command line. Durations are nanoseconds in
// etcd's files.
func fileText(spec *flagSpec, value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case json.Number:
		if spec.kind == kindDuration {
			n, err := v.Int64()
			return time.Duration(n).String(), err
		}
		return v.String(), nil
	case []any:
		parts := make([]string, 0, len(v))
		for _, item := range v {
			s, err := fileText(spec, item)
			if err != nil {
				return "", err
			}
			parts = append(parts, s)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("neither a text nor a number nor a list")
}
