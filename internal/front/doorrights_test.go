package front

import (
	"testing"

	"pontoon/internal/calls"
)

// TestEveryVettedCallHasARule: what a routing client may ask at all is judged once authentication is on, and nothing else has a rule.
func TestEveryVettedCallHasARule(t *testing.T) {
	for kind := range calls.Kinds {
		vetted := calls.Table[kind].Client == calls.Vetted
		if vetted != (callRules[kind] != nil) {
			t.Errorf("%s: clients may ask: %v, there is a rule: %v", calls.Table[kind].Name, vetted, callRules[kind] != nil)
		}
	}
}
