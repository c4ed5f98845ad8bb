#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# directives.t: no directive is silently forgotten. What mod_sessiond/config.c
# declares is described in doc/directives.md (a heading with its name, then
# Description, Syntax, Default and Context), stands in conf/sessiond-full.conf
# and is named in a test under t/httpd/; and nothing is described or sampled
# that the code does not have.
use v5.36;
use Test::More;
use FindBin;
use lib $FindBin::Bin;
use Tree qw(files slurp code_only);

my @FIELDS = qw(Description Syntax Default Context);

# The names in the table of commands, whatever macro makes the entry.
sub declared ($source) {
    my ($table) = code_only($source) =~ /\bcommand_rec\s+\w+\[\]\s*=\s*\{(.*?)\n\};/s or return;
    return $table =~ /\b\w+\s*\(\s*"(Sessiond\w+)"/g;
}

# name => { field => 1 } of every section whose heading names a directive.
sub documented ($manual) {
    my (%found, $name);
    for my $line (split /\n/, $manual) {
        if ($line =~ /^#+\s/) {
            $name = $line =~ /^#+\s+`?(Sessiond\w+)/ ? $1 : undef;
            $found{$name} //= {} if defined $name;
        }
        elsif (defined $name && $line =~ /^\W*(\w+)\W*[:|]\W*\w/ && grep { $_ eq $1 } @FIELDS) {
            $found{$name}{$1} = 1;
        }
    }
    return %found;
}

# Commented-out lines count: a directive without a default is shown like that.
sub sampled ($conf) {
    return $conf =~ /^[ \t]*#?[ \t]*(Sessiond[A-Z]\w*)[ \t]+\S/mg;
}

sub missing ($have, $want) {
    my %have = map { $_ => 1 } @$have;
    return [ sort grep { !$have{$_} } @$want ];
}

is_deeply([declared(qq{f("SessiondX %s");\nconst command_rec c[] = {\n AP_INIT_TAKE1("SessiondA", f),
    NUMBER ( "SessiondB", g) /* AP_INIT_X("SessiondC" */\n};\nf("SessiondY");\n})],
    [qw(SessiondA SessiondB)], 'declarations are found');
my %sample = documented("## SessiondA\n**Description:** x\n| Syntax | `a` |\n## Notes\nDefault: no\n");
is_deeply(\%sample, { SessiondA => { Description => 1, Syntax => 1 } }, 'fields are found in their section only');
is_deeply([sampled("SessiondA 1\n#SessiondB 2\n# on SessiondC one\n")], [qw(SessiondA SessiondB)], 'samples are found');

my @declared = sort(declared(slurp('mod_sessiond/config.c')));
cmp_ok(scalar @declared, '>', 0, 'config.c declares directives') or BAIL_OUT('config.c: no table of commands was found');

my %documented = documented(slurp('doc/directives.md'));
is_deeply(missing([keys %documented], \@declared), [], 'every directive has its entry in doc/directives.md');
is_deeply(missing(\@declared, [keys %documented]), [], 'doc/directives.md describes no other');
for my $name (@declared) {
    is_deeply(missing([keys %{ $documented{$name} || {} }], \@FIELDS), [], "the entry of $name is complete");
}

my @sampled = sampled(slurp('conf/sessiond-full.conf'));
is_deeply(missing(\@sampled, \@declared), [], 'every directive stands in conf/sessiond-full.conf');
is_deeply(missing(\@declared, [map { sampled(slurp($_)) } files(qr{^conf/.*\.conf$})]), [],
    'the samples use no other');

my $tests = join "\n", map { slurp($_) } files(qr{^t/httpd/.*\.t$});
for my $name (@declared) {
    like($tests, qr/\b$name\b/, "a test under t/httpd/ uses $name");
}
done_testing;
