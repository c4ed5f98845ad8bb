#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Fifty thousand small sessions: all arrive, a second run changes nothing, and
# the memory that sessiond-import takes does not depend on their number. How
# fast it is is told and not judged.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_get);
use Sessiond::Test::Import qw(run_import new_directory put_session);

my $N = 50_000;
my $h = Sessiond::Test::Httpd->new(name => 'speed', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 256M
END
my $server = '127.0.0.1:' . $h->port;
my $dir = new_directory();

sub key_of ($n) { return sprintf '%08d%s', $n, 'k' x 18 }
sub value_for ($n) { return "user|i:$n;" . 'x' x (100 + $n * 7 % 1500) }

put_session($dir, 'sess_' . key_of($_), value_for($_)) for 1 .. $N;

my $first = run_import('php', $dir, $server);
is_deeply([$first->{status}, $first->{sum}{imported}], [0, $N], 'all are imported') or diag $first->{out}, $first->{err};
diag "first run: $1" if $first->{out} =~ /^(in .*)$/m;
is($h->value('Sessions'), $N, 'and there');

my $c = Sessiond::Test::Client->new($h->port);
my $wrong = 0;
for (my $n = 1; $n <= $N; $n += 100) {
    my @some = grep { $_ <= $N } $n .. $n + 99;
    my ($outcome, @replies) = $c->call(map { frame_get(key_of($_)) } @some);
    die "get: $outcome\n" if $outcome ne 'ok';
    $wrong += grep { ($replies[$_]{data} // '') ne value_for($some[$_]) } 0 .. $#some;
}
is($wrong, 0, 'each with its value');

my $before = $h->value('Writes');
my $second = run_import('php', $dir, $server);
is_deeply([$second->{status}, @{ $second->{sum} }{ 'imported', 'already there' }], [0, 0, $N], 'a second run finds them there');
is($h->value('Writes'), $before, 'and writes none');
diag "second run: $1" if $second->{out} =~ /^(in .*)$/m;
my $dry = run_import('-n', 'php', $dir, $server);
diag "dry run: $1" if $dry->{out} =~ /^(in .*)$/m;
is($dry->{sum}{'already there'}, $N, 'so does a dry run');

SKIP: {
    my ($prlimit) = grep { -x } map { "$_/prlimit" } split /:/, $ENV{PATH};
    skip 'prlimit(1) is not installed', 1 unless $prlimit;
    skip 'a sanitizer takes more for itself', 1 if $ENV{SESSIOND_SANITIZED};
    my $program = Sessiond::Test::Import::tool();
    local $ENV{SESSIOND_IMPORT} = Sessiond::Test::Httpd->scratch('limited');
    open my $script, '>', $ENV{SESSIOND_IMPORT} or die "$!\n";
    print {$script} "#!/bin/sh\nexec $prlimit --data=8000000 '$program' \"\$@\"\n";
    close $script;
    chmod 0755, $ENV{SESSIOND_IMPORT};
    my $small = run_import('--overwrite', 'php', $dir, $server);
    is_deeply([$small->{status}, $small->{sum}{imported}], [0, $N], 'within 8 MB of memory') or diag $small->{out}, $small->{err};
}

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
